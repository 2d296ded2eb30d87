"""The image store: every image of a source decoded, normalised and resized once, into a
memory-mapped file.

Epochs, and later runs, read it without decoding; memory stays flat however many images there are.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm.auto import tqdm

from forget_mi.config import config
from forget_mi.data.cohort import DIGESTS, SKIPPED_COLUMNS, Cohort, ImageRows
from forget_mi.data.images import UnreadableImageError, read_image
from forget_mi.errors import InputError
from forget_mi.files import sha256_of_text, write_text
from forget_mi.source_code import code_fingerprint

WAITING, READ, UNREADABLE = 0, 1, 2


CHUNK = 32


@config
class FilesConfig:
    """What all sources made of files share. max_unreadable: share of the eligible images or reports
    that may be missing or unusable; above it the run stops. store: folder of the image store (a
    profile's is relative to the project). workers: processes that decode; 0 for one a core. ids:
    see `cohorts.pseudonyms`."""

    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.01
    store: Path = Path("runs/store")
    workers: Annotated[int, Field(ge=0)] = 0
    ids: Literal["hashed", "plain"] = "hashed"


@dataclass(frozen=True)
class Store:
    """images: uint8 (n, 1, size, size), memory-mapped, in the order of the paths asked for; zeros
    where unreadable. unreadable: position to reason. folder: where it lies."""

    images: np.ndarray
    unreadable: dict[int, str]
    folder: Path


def open_store(
    paths: Sequence[Path],
    size: int,
    folder: Path,
    *,
    source: str,
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """The store of some image files, made or finished first where it is not whole.

    folder: under it lies a folder a store, named by a fingerprint of the source, the size, and
    every file's path, length and time of change: a changed file means another store. workers:
    processes that decode (default: one a core). A pass that was killed goes on where it was.

    Raises InputError where the disk has no room for it.
    """
    home = Path(folder).resolve() / _fingerprint(paths, size, source)
    shape = (len(paths), 1, size, size)
    _make_room(home, shape)
    state = np.load(home / "state.npy", mmap_mode="r+")
    waiting = np.flatnonzero(state == WAITING)
    if len(waiting):
        chunks = [waiting[at : at + CHUNK] for at in range(0, len(waiting), CHUNK)]
        jobs = [(home, size, [(int(i), str(paths[i])) for i in chunk]) for chunk in chunks]
        _read_all(
            jobs,
            workers,
            tqdm(total=len(waiting), desc="decoding images", unit="image", disable=not progress),
        )
    unreadable = {}
    for file in sorted(home.glob("unreadable.*.json")):
        unreadable |= {int(index): reason for index, reason in json.loads(file.read_text()).items()}
    return Store(
        np.load(home / "images.npy", mmap_mode="r"), dict(sorted(unreadable.items())), home
    )


def cohort_from_files(
    name: str,
    classes: Sequence[str],
    rows: Sequence[dict],
    paths: Sequence[Path],
    reports: Mapping[str, str],
    settings: Any,
    *,
    ineligible: Sequence[tuple[str, str]],
    unusable: Sequence[tuple[str, str]],
) -> Cohort:
    """The cohort of some image files, read through the store.

    rows, paths: of the table and of the image behind each. settings: a source's config, a
    FilesConfig with root and image_size. ineligible: items that the source leaves out by its rules,
    with the reason. unusable: items that it should have had, with what is wrong; the unreadable
    images join them.

    Raises InputError where nothing is left, or more than max_unreadable of the eligible items are
    unusable.
    """
    eligible = len(rows) + len(unusable)
    if not eligible:
        first = f"; first: {ineligible[0][0]} ({ineligible[0][1]})" if ineligible else ""
        raise InputError(f"{settings.root}: none of {len(ineligible)} rows can be used{first}")
    store = open_store(
        paths, settings.image_size, settings.store, source=name, workers=settings.workers or None
    )
    unusable = [
        *unusable,
        *((rows[i]["image_id"], f"unreadable image: {why}") for i, why in store.unreadable.items()),
    ]
    check_unusable(settings.root, unusable, eligible, settings.max_unreadable)
    kept = [i for i in range(len(rows)) if i not in store.unreadable]
    table = pd.DataFrame([rows[i] for i in kept])
    return Cohort(
        name=name,
        table=table,
        images=ImageRows(store.images, kept),
        reports={study: reports[study] for study in table.study_id.unique()},
        classes=classes,
        synthetic=False,
        skipped=pd.DataFrame([*ineligible, *unusable], columns=list(SKIPPED_COLUMNS)),
        store=store.folder,
    )


def check_unusable(
    source: Path | str, unusable: Sequence[tuple[str, str]], eligible: int, allowed: float
) -> None:
    """Raise InputError where more than a share `allowed` of the eligible items can't be used."""
    if len(unusable) > allowed * eligible:
        item, reason = unusable[0]
        raise InputError(
            f"{source}: {len(unusable)} of {eligible} images can't be used, first {item} "
            f"({reason}); cohort.max_unreadable = {allowed} allows {int(allowed * eligible)}"
        )


def _read_all(jobs: list[tuple], workers: int | None, bar: tqdm) -> None:
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            bar.update(_read_chunk(job))
    else:
        with ProcessPoolExecutor(workers) as pool:
            for done in pool.map(_read_chunk, jobs):
                bar.update(done)
    bar.close()


def _read_chunk(job: tuple[Path, int, list[tuple[int, str]]]) -> int:
    """Decode some files into the store. The state is set once the pixels are written: a killed
    chunk is read again."""
    home, size, items = job
    images, digests, state = (
        np.load(home / name, mmap_mode="r+") for name in ("images.npy", DIGESTS, "state.npy")
    )
    reasons = {}
    for index, path in items:
        try:
            images[index, 0] = read_image(Path(path), size)
            digests[index] = np.frombuffer(hashlib.sha256(images[index]).digest(), np.uint8)
        except UnreadableImageError as error:
            reasons[index] = str(error)
    if reasons:
        write_text(home / f"unreadable.{items[0][0]:09d}.json", json.dumps(reasons))
    images.flush()
    digests.flush()
    for index, _ in items:
        state[index] = UNREADABLE if index in reasons else READ
    state.flush()
    return len(items)


def _make_room(home: Path, shape: tuple[int, ...]) -> None:
    """images.npy, the digests and state.npy in their full size, before anything is decoded: a full
    disk shows now."""
    # An earlier version kept no digests: its images are decoded again.
    if all((home / name).is_file() for name in (DIGESTS, "state.npy")):
        return
    (home / "state.npy").unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f".images.{os.getpid()}.tmp"
    try:
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        del images
        with open(temporary, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        os.replace(temporary, home / "images.npy")
        np.save(home / DIGESTS, np.zeros((shape[0], 32), dtype=np.uint8))
        # Last: without a state there is no store.
        np.save(home / ".state.tmp.npy", np.full(shape[0], WAITING, dtype=np.uint8))
        os.replace(home / ".state.tmp.npy", home / "state.npy")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        gigabytes = np.prod(shape, dtype=float) / 1e9
        raise InputError(
            f"{home}: no room for the image store of {shape[0]} images of {shape[-1]} px "
            f"({gigabytes:.2f} GB); free space, or set cohort.store to a folder on another disk"
        ) from None


def _fingerprint(paths: Sequence[Path], size: int, source: str) -> str:
    described = [source, size, code_fingerprint("data.images")]
    for path in paths:
        try:
            about = os.stat(path)
            described.append((str(path), about.st_size, about.st_mtime_ns))
        except OSError:
            described.append((str(path), None, None))
    return sha256_of_text(json.dumps(described))[:16]
