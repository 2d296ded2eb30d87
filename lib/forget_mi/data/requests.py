"""Deletion requests: who asks to be forgotten, drawn from the training patients or given as a list
or a CSV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from forget_mi.config import config
from forget_mi.data.cohort import Cohort, rows_of
from forget_mi.data.pseudonyms import pseudonym
from forget_mi.data.tables import read_table
from forget_mi.errors import InputError
from forget_mi.files import write_text


@config
class RequestConfig:
    """A deletion request: exactly one of a fraction of the training images (drawn by patient with
    the seed), a list of patient ids, or a forget CSV with a subject_id (or patient_id) column."""

    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    patients: tuple[str, ...] | None = None
    csv: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        given = [
            name for name in ("fraction", "patients", "csv") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise InputError(
                f"request: give exactly one of fraction, patients and csv; given: {given or 'none'}"
            )


@dataclass(frozen=True)
class Request:
    """The patients who withdraw consent. name: how the request is called in tables and folder
    names."""

    name: str
    patients: tuple[str, ...]

    def forget_rows(self, cohort: Cohort) -> np.ndarray:
        """Table rows of D_f: the training rows of the patients in the request."""
        return np.flatnonzero(self._asked(cohort) & (cohort.table.split == "train").to_numpy())

    def retain_rows(self, cohort: Cohort) -> np.ndarray:
        """Table rows of D_r: the training rows of everyone else."""
        return np.flatnonzero(~self._asked(cohort) & (cohort.table.split == "train").to_numpy())

    def fraction(self, cohort: Cohort) -> float:
        """|D_f| as a share of the training images."""
        return len(self.forget_rows(cohort)) / len(rows_of(cohort, "train"))

    def _asked(self, cohort: Cohort) -> np.ndarray:
        return cohort.table.patient_id.isin(self.patients).to_numpy()

    def save(self, path: Path, cohort: Cohort) -> None:
        """Write the request as a forget CSV (subject_id, study_id, dicom_id, edema_severity), the
        format that `read_forget_csv` and the published forget files share."""
        rows = cohort.table.iloc[self.forget_rows(cohort)]
        names = {
            "patient_id": "subject_id",
            "study_id": "study_id",
            "image_id": "dicom_id",
            "label": "edema_severity",
        }
        write_text(path, rows[list(names)].rename(columns=names).to_csv(index=False))


def make_request(cohort: Cohort, settings: RequestConfig) -> Request:
    """The request that the settings describe, checked against the cohort (see `check_request`)."""
    if settings.fraction is not None:
        return draw_request(cohort, settings.fraction, settings.seed)
    if settings.csv is not None:
        return check_request(
            cohort, Request(settings.csv.stem, cohort_ids(cohort, read_forget_csv(settings.csv)))
        )
    return check_request(cohort, Request("given", cohort_ids(cohort, settings.patients)))


def cohort_ids(cohort: Cohort, patients: Iterable[str]) -> tuple[str, ...]:
    """Patients named by the ids of the collection, as the cohort's table has them (see
    `cohorts.pseudonyms`)."""
    if cohort.salt is None:
        return tuple(patients)
    return tuple(pseudonym(cohort.salt, "patient_id", patient) for patient in patients)


def draw_request(cohort: Cohort, fraction: float, seed: int) -> Request:
    """Training patients drawn at random until their images make up `fraction` of the training
    images, as closely as whole patients allow without exceeding it."""
    train = cohort.table.iloc[rows_of(cohort, "train")]
    images = train.groupby("patient_id", sort=False).size()
    target = fraction * len(train)
    chosen, total = [], 0
    for patient in np.random.default_rng([seed, 7]).permutation(images.index.to_numpy()):
        if total + images[patient] <= target + 0.5:
            chosen.append(str(patient))
            total += images[patient]
    if not chosen:
        raise InputError(
            f"request: a fraction of {fraction} is {target:.1f} training images, fewer than any "
            f"patient has ({images.min()}); ask for at least {images.min() / len(train):.3f}"
        )
    return check_request(cohort, Request(f"{100 * fraction:g}pct", tuple(sorted(chosen))))


def check_request(cohort: Cohort, request: Request) -> Request:
    """Return the request if it can be served.

    Raises InputError where it is empty, names a patient who is not in training, or leaves nothing,
    or no example of a class, to train on.
    """
    if not request.patients:
        raise InputError("request: it names no patient; name at least one training patient")
    sides = cohort.table.drop_duplicates("patient_id").set_index("patient_id").split
    for number, patient in enumerate(request.patients, start=1):
        side = sides.get(patient)
        if side != "train":
            where = "is not in the cohort" if side is None else f"is in {side}, not in training"
            hint = " (split.keep_in_training would keep them there)" if side == "validation" else ""
            raise InputError(
                f"request: patient {patient!r} ({number} of {len(request.patients)} named) "
                f"{where}; only training patients can be forgotten{hint}"
            )
    left = cohort.table.iloc[request.retain_rows(cohort)]
    if len(left) == 0:
        raise InputError(
            "request: it names every training patient; nothing would be left to retain"
        )
    missing = set(cohort.table.label[rows_of(cohort, "train")]) - set(left.label)
    if missing:
        raise InputError(
            f"request: no training example of class {cohort.classes[min(missing)]!r} would be left"
        )
    return request


def read_forget_csv(path: Path) -> list[str]:
    """Patient ids in a forget CSV: the distinct values of its subject_id (or patient_id) column, in
    file order.

    A repeated header line, as in the published files, is passed over. Raises InputError where the
    file is missing, has no such column, or holds no patient.
    """
    table = read_table(path, [("subject_id", "patient_id")], "a forget CSV")
    if len(table) == 0:
        raise InputError(f"{path}: it names no patient")
    if not table.subject_id.all():
        raise InputError(
            f"{path}: line {table.line[table.subject_id == ''].iloc[0]} names no patient"
        )
    return table.subject_id.drop_duplicates().tolist()
