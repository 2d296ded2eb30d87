"""The one interface behind which every source of patients, images and reports stands."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, sha256_of_text, write_text

ID_COLUMNS = ["patient_id", "study_id", "image_id"]


TABLE_COLUMNS = (*ID_COLUMNS, "label")


SKIPPED_COLUMNS = ("item", "reason")


# In an image store's folder: SHA-256 of each image's pixels, uint8 (n, 32).
DIGESTS = "digests.npy"


class ImageRows:
    """Some rows of an image array, by position, without copying: what is asked for is read when it
    is asked for, so that a memory-mapped array stays on disk. Indexing, shape, len and
    numpy.asarray work as on the array itself."""

    def __init__(self, images: np.ndarray | ImageRows, rows: Sequence[int]):
        rows = np.asarray(rows, dtype=np.int64)
        if isinstance(images, ImageRows):
            images, rows = images.images, images.rows[rows]
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, 1, height, width)."""
        return (len(self.rows), *self.images.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return self.images.dtype

    def __getitem__(self, index) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        return np.asarray(self.images[(self.rows[first], *rest)])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.images[self.rows], dtype=dtype)


def read_rows(images: np.ndarray | ImageRows, index: np.ndarray, out: np.ndarray) -> None:
    """Read some rows of an image array into one of the same kind and as many rows."""
    if isinstance(images, ImageRows):
        images, index = images.images, images.rows[index]
    if images[:1].nbytes >= LARGE:

        def read(place: int) -> None:
            out[place] = images[index[place]]

        with ThreadPoolExecutor(READERS) as readers:
            deque(readers.map(read, range(len(index))), maxlen=0)  # an error is raised here
    else:
        # Any other mode than this copies once more; the rows are there.
        np.take(images, index, axis=0, out=out, mode="clip")


# Rows of so many bytes are read one by one, several at a time: a disk has more than one in hand.
LARGE, READERS = 2**18, 4


@dataclass(frozen=True)
class Cohort:
    """Patients, their studies, their images and reports.

    table: one row an image, index 0..n-1, with at least patient_id, study_id and image_id (str) and
        label (int, 0..len(classes)-1); a source may add more (sex, age, view).
    images: uint8 array of shape (n, 1, height, width), row i belonging to row i of the table; it
        may be memory-mapped, or an ImageRows.
    reports: study_id -> report text, never empty.
    classes: the label names, in the order of the label numbers.
    synthetic: True where no real person stands behind a row.
    skipped: what the source could not use, one row an item, with the reason.
    store: the image store's folder, where the images are rows of it.
    salt: of the hashed ids, where they are hashed; not saved with the cohort.
    """

    name: str
    table: pd.DataFrame
    images: np.ndarray | ImageRows
    reports: dict[str, str]
    classes: Sequence[str]
    synthetic: bool
    skipped: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(SKIPPED_COLUMNS))
    )
    store: Path | None = None
    salt: str | None = None

    def __post_init__(self):
        missing = [c for c in TABLE_COLUMNS if c not in self.table.columns]
        if missing:
            raise InputError(
                f"cohort {self.name}: the table lacks the columns {', '.join(missing)}"
            )
        if len(self.table) == 0:
            raise InputError(f"cohort {self.name}: no image is left ({len(self.skipped)} skipped)")
        if len(self.images) != len(self.table):
            raise InputError(
                f"cohort {self.name}: {len(self.images)} images for {len(self.table)} table rows"
            )
        duplicated = self.table.image_id[self.table.image_id.duplicated()]
        if len(duplicated):
            raise InputError(
                f"cohort {self.name}: image id {duplicated.iloc[0]!r} stands in more than one row"
            )
        bad = ~self.table.label.isin(range(len(self.classes)))
        if bad.any():
            row = self.table[bad].iloc[0]
            raise InputError(
                f"cohort {self.name}: image {row.image_id!r} has label {row.label}; allowed are 0 "
                f"to {len(self.classes) - 1}"
            )
        for study in self.table.study_id.unique():
            if not self.reports.get(study, "").strip():
                raise InputError(
                    f"cohort {self.name}: study {study!r} has no report or an empty one"
                )

    @property
    def has_images(self) -> bool:
        """False for a cohort of reports alone, whose images are 0 pixels wide."""
        return self.images.shape[-1] > 0

    def __len__(self) -> int:
        return len(self.table)

    def flow(self) -> pd.DataFrame:
        """Who came in and who was left out: a row a step (the source, each reason without its
        details, what is used), with the number of items."""
        reasons = self.skipped.reason.astype(str).str.replace(r"[:(].*", "", regex=True).str.strip()
        dropped = reasons.value_counts()
        steps = {"in the source": len(self) + len(self.skipped)}
        steps |= {f"left out: {reason}": -count for reason, count in dropped.items()}
        return pd.DataFrame({"items": steps | {"used": len(self)}})

    def report_of(self, row: int) -> str:
        """The report text that goes with one image."""
        return self.reports[self.table.study_id.iloc[row]]

    def select(self, rows: Sequence[int]) -> Cohort:
        """The cohort restricted to some table rows, renumbered from 0."""
        table = self.table.iloc[list(rows)].reset_index(drop=True)
        studies = set(table.study_id)
        reports = {study: text for study, text in self.reports.items() if study in studies}
        images = ImageRows(self.images, list(rows)) if self.store else self.images[list(rows)]
        return Cohort(
            self.name, table, images, reports, self.classes, self.synthetic, store=self.store
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any image, report or label, and with who or which study an
        image is of: what ties a run folder to its cohort.

        Ids count by the order in which they come, not by what they say: hashed with another salt,
        the cohort is the same, so that runs share what was trained on it; and no id can be read
        from it. Of images in a store, the digests of the rows used count, which the store took when
        it decoded them: neither where the files lie nor when they were written, so that another
        copy of the same collection is the same cohort.
        """
        digest = hashlib.sha256()
        columns = [c for c in self.table.columns if c != "split"]
        ids = {kind: pd.factorize(self.table[kind])[0] for kind in ID_COLUMNS}
        digest.update(self.table[columns].assign(**ids).to_csv(index=False).encode())
        reports = [self.reports[study] for study in self.table.study_id.unique()]
        digest.update(json.dumps(reports).encode())
        digest.update(json.dumps([self.name, list(self.classes), list(self.images.shape)]).encode())
        if self.store is not None:
            digests = np.load(self.store / DIGESTS, mmap_mode="r")
            digest.update(digests[self.images.rows].tobytes())
            return digest.hexdigest()[:16]
        for start in range(0, len(self.images), 256):
            digest.update(np.ascontiguousarray(self.images[start : start + 256]).tobytes())
        return digest.hexdigest()[:16]

    def _ids_hash(self) -> str:
        return sha256_of_text(self.table[ID_COLUMNS].to_csv(index=False))[:16]

    def save(self, folder: Path) -> None:
        """Write the cohort as cohort.csv, reports.json, images.npy (of images in a store, their
        rows in it), skipped.csv and cohort.json (last, so that a folder without cohort.json is not
        yet whole)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cohort.json").unlink(missing_ok=True)
        write_text(folder / "cohort.csv", self.table.to_csv(index=False))
        write_text(folder / "reports.json", json.dumps(self.reports, indent=0))
        write_text(folder / "skipped.csv", self.skipped.to_csv(index=False))
        with replace_when_whole(folder / "images.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, self.images if self.store is None else self.images.rows)
        about = {
            "name": self.name,
            "classes": list(self.classes),
            "synthetic": self.synthetic,
            "fingerprint": self.fingerprint,
            "ids": self._ids_hash(),
            "store": None if self.store is None else str(self.store),
        }
        write_text(folder / "cohort.json", json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Cohort:
        """Read a saved cohort; images stay memory-mapped.

        Raises InputError where the folder holds none, a half-written one, or one whose content was
        changed.
        """
        folder = Path(folder)
        if not (folder / "cohort.json").is_file():
            raise InputError(
                f"{folder}: holds no whole cohort (cohort.json is missing); run notebook 01_cohort "
                "first"
            )
        try:
            about = json.loads((folder / "cohort.json").read_text())
            ids = dict.fromkeys((*ID_COLUMNS, "fold"), str)
            images = np.load(folder / "images.npy", mmap_mode="r")
            store = about.get("store") and Path(about["store"])
            if store:
                images = ImageRows(np.load(store / "images.npy", mmap_mode="r"), images)
            cohort = cls(
                name=about["name"],
                table=pd.read_csv(folder / "cohort.csv", dtype=ids),
                images=images,
                reports=json.loads((folder / "reports.json").read_text()),
                classes=tuple(about["classes"]),
                synthetic=about["synthetic"],
                skipped=pd.read_csv(folder / "skipped.csv"),
                store=store or None,
            )
            fingerprint = cohort.fingerprint
        except InputError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{folder}: the saved cohort is damaged ({error}); run notebook 01_cohort again"
            ) from None
        if fingerprint != about["fingerprint"]:
            raise InputError(
                f"{folder}: the saved cohort was changed after it was written (fingerprint "
                f"{fingerprint}, expected {about['fingerprint']}); run notebook 01_cohort again"
            )
        if about.get("ids") not in (None, cohort._ids_hash()):  # earlier versions kept none
            raise InputError(
                f"{folder / 'cohort.csv'}: ids were changed after it was written; run notebook "
                "01_cohort again"
            )
        return cohort


def rows_of(cohort: Cohort, side: str) -> np.ndarray:
    """Table rows of one side (train, validation or test)."""
    return np.flatnonzero((cohort.table.split == side).to_numpy())
