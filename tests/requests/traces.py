"""Searches everything below a folder for what was a patient's: ids, words and pixels, in whatever
encoding the project writes."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")


def traces_of(cohort, rows, tokenizer=None) -> dict[str, bytes]:
    """By what it is, each run of bytes that gives a record of these rows away."""
    table, found = cohort.table[rows], {}
    for patient in table.patient_id.unique():
        found[f"id {patient}"] = str(patient).encode()
    for study in table.study_id.unique():
        report = cohort.reports[study]
        for kind, text in (
            ("plain", report),
            ("JSON", json.dumps(report)[1:-1]),
            ("HTML", html.escape(report)),
        ):
            found[f"report {study}, {kind}"] = text.encode()
        if tokenizer is not None:
            ids = tokenizer(report, truncation=True, max_length=24)["input_ids"][1:-1]
            for kind in ("int32", "int64"):
                found[f"report {study}, tokens as {kind}"] = np.asarray(ids, kind).tobytes()
    for row in np.flatnonzero(rows):
        pixels = np.asarray(cohort.images[row])
        # Two lines through the middle: enough to know a picture by, wherever it was cut.
        lines = pixels.reshape(-1, pixels.shape[-1])[pixels.shape[-2] // 2 :][:2]
        found[f"image {row}, bytes"] = lines.tobytes()
        found[f"image {row}, float32"] = (lines.astype("float32") / np.float32(255)).tobytes()
    return found


def written_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, of each member of an archive, of each base64 text in it, and
    the pixels of each picture among them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield from unpacked(str(path.relative_to(folder)), path.read_bytes())


def unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The content, and what it holds."""
    yield name, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from unpacked(f"{name}/{member}", archive.read(member))
    elif content[:8] == b"\x89PNG\r\n\x1a\n" or content[:2] == b"\xff\xd8":
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        yield f"{name} (pixels)", pixels.tobytes()
        for channel in range(pixels.shape[-1] if pixels.ndim == 3 else 0):
            yield f"{name} (channel {channel})", pixels[..., channel].tobytes()
    else:
        for text in BASE64.findall(content):
            try:
                yield from unpacked(f"{name} (base64)", base64.b64decode(text, validate=True))
            except ValueError:
                continue


def leaks(folder: Path, traces: dict[str, bytes]) -> list[str]:
    """What of the traces is found where."""
    return [
        f"{name}: {what}"
        for name, content in written_below(folder)
        for what, trace in traces.items()
        if trace in content
    ]
