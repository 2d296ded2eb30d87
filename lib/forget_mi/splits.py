"""Who is on which side: splits by patient, and the deletion requests drawn from the training patients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from forget_mi.cohorts.base import Cohort
from forget_mi.cohorts.pseudonyms import pseudonym
from forget_mi.cohorts.tables import read_table
from forget_mi.errors import InputError
from forget_mi.files import write_text
from forget_mi.params import config

SIDES = ("train", "validation", "test")


@config
class SplitConfig:
    """test, validation: share of the images on that side, met as well as whole patients allow. seed: of the draw.
    published: the test side is the one that the collection was published with (its folds); only validation is drawn.
    keep_in_training: forget CSVs whose patients stay in training, so that one original serves all these requests."""

    test: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0
    published: bool = False
    keep_in_training: tuple[Path, ...] = ()


@config
class RequestConfig:
    """A deletion request: exactly one of a fraction of the training images (drawn by patient with the seed), a list
    of patient ids, or a forget CSV with a subject_id (or patient_id) column."""

    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    patients: tuple[str, ...] | None = None
    csv: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        given = [name for name in ("fraction", "patients", "csv") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(f"request: give exactly one of fraction, patients and csv; given: {given or 'none'}")


def split_by_patient(cohort: Cohort, settings: SplitConfig) -> Cohort:
    """The cohort with a column `split` (train, validation or test), the same for all images of a patient, stratified
    by label as well as whole patients allow (scikit-learn's StratifiedGroupKFold).

    Raises InputError where a class has too few patients to stand on all three sides.
    """
    table = cohort.table
    for label, name in enumerate(cohort.classes):
        patients = table.patient_id[table.label == label].nunique()
        if patients < len(SIDES):
            raise InputError(
                f"cohort {cohort.name}: class {name!r} has {patients} patient(s); a patient-level split needs at least "
                f"{len(SIDES)}, one each for {', '.join(SIDES)}"
            )
    side = np.array(["train"] * len(table), dtype=object)
    if settings.published:
        side[_published_test(cohort)] = "test"
    else:
        side[_one_fold(table, settings.test, settings.seed)] = "test"
    kept = {patient for path in settings.keep_in_training for patient in in_cohort(cohort, read_forget_csv(path))}
    rest = np.flatnonzero((side == "train") & ~table.patient_id.isin(kept).to_numpy())
    wanted = settings.validation * len(table)
    if len(rest) <= wanted:
        raise InputError(
            f"split.keep_in_training: with these patients kept, {len(rest)} images are left for a validation side of "
            f"{wanted:.0f}"
        )
    share_of_rest = min(settings.validation / (1 - settings.test), 0.5)
    if settings.published or kept:
        share_of_rest = min(wanted / len(rest), 0.5)
    side[rest[_one_fold(table.iloc[rest], share_of_rest, settings.seed)]] = "validation"
    split = replace(cohort, table=table.assign(split=side))
    missing = set(range(len(cohort.classes))) - set(split.table.label[side == "train"])
    if missing:
        raise InputError(f"cohort {cohort.name}: class {cohort.classes[min(missing)]!r} has no training patient")
    return split


def _published_test(cohort: Cohort) -> np.ndarray:
    """Rows whose published fold is TEST."""
    if "fold" not in cohort.table:
        raise InputError(f"parameter split.published = True: cohort {cohort.name} was not published with folds")
    test = (cohort.table.fold == "TEST").to_numpy()
    if not test.any():
        raise InputError(f"cohort {cohort.name}: no row has the fold TEST")
    return np.flatnonzero(test)


def _one_fold(table: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import, for who draws a split

    # No more folds than there are patients, or images of the most frequent class.
    folds = max(2, min(round(1 / share), table.patient_id.nunique(), table.label.value_counts().max()))
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    # By number in the order of the table, so that the draw does not depend on how the ids are hashed.
    return next(splitter.split(table, table.label, pd.factorize(table.patient_id)[0]))[1]


def rows_of(cohort: Cohort, side: str) -> np.ndarray:
    """Table rows of one side (train, validation or test)."""
    return np.flatnonzero((cohort.table.split == side).to_numpy())


# ---- deletion requests ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """The patients who withdraw consent. name: how the request is called in tables and folder names."""

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
        """Write the request as a forget CSV (subject_id, study_id, dicom_id, edema_severity), the format that
        `read_forget_csv` and the published forget files share."""
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
        return check_request(cohort, Request(settings.csv.stem, in_cohort(cohort, read_forget_csv(settings.csv))))
    return check_request(cohort, Request("given", in_cohort(cohort, settings.patients)))


def in_cohort(cohort: Cohort, patients: Iterable[str]) -> tuple[str, ...]:
    """Patients named by the ids of the collection, as the cohort's table has them (see `cohorts.pseudonyms`)."""
    if cohort.salt is None:
        return tuple(patients)
    return tuple(pseudonym(cohort.salt, "patient_id", patient) for patient in patients)


def draw_request(cohort: Cohort, fraction: float, seed: int) -> Request:
    """Training patients drawn at random until their images make up `fraction` of the training images, as closely as
    whole patients allow without exceeding it."""
    train = cohort.table.iloc[rows_of(cohort, "train")]
    images = train.groupby("patient_id", sort=False).size()
    wanted = fraction * len(train)
    chosen, total = [], 0
    for patient in np.random.default_rng([seed, 7]).permutation(images.index.to_numpy()):
        if total + images[patient] <= wanted + 0.5:
            chosen.append(str(patient))
            total += images[patient]
    if not chosen:
        raise InputError(
            f"request: a fraction of {fraction} is {wanted:.1f} training images, fewer than any patient has "
            f"({images.min()}); ask for at least {images.min() / len(train):.3f}"
        )
    return check_request(cohort, Request(f"{100 * fraction:g}pct", tuple(sorted(chosen))))


def check_request(cohort: Cohort, request: Request) -> Request:
    """Return the request if it can be served.

    Raises InputError where it is empty, names a patient who is not in training, or leaves nothing, or no example of
    a class, to train on.
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
                f"request: patient {patient!r} ({number} of {len(request.patients)} named) {where}; only training "
                f"patients can be forgotten{hint}"
            )
    left = cohort.table.iloc[request.retain_rows(cohort)]
    if len(left) == 0:
        raise InputError("request: it names every training patient; nothing would be left to retain")
    missing = set(cohort.table.label[rows_of(cohort, "train")]) - set(left.label)
    if missing:
        raise InputError(f"request: no training example of class {cohort.classes[min(missing)]!r} would be left")
    return request


def read_forget_csv(path: Path) -> list[str]:
    """Patient ids in a forget CSV: the distinct values of its subject_id (or patient_id) column, in file order.

    A repeated header line, as in the published files, is passed over. Raises InputError where the file is missing,
    has no such column, or holds no patient.
    """
    table = read_table(path, [("subject_id", "patient_id")], "a forget CSV")
    if len(table) == 0:
        raise InputError(f"{path}: it names no patient")
    if not table.subject_id.all():
        raise InputError(f"{path}: line {table.line[table.subject_id == ''].iloc[0]} names no patient")
    return table.subject_id.drop_duplicates().tolist()


def assert_disjoint(cohort: Cohort, sides: Iterable[Sequence[int]]) -> None:
    """Raise InputError where a patient has rows in more than one of the given sets of rows."""
    owner: dict[str, int] = {}
    for number, rows in enumerate(sides):
        for patient in cohort.table.patient_id.iloc[list(rows)].unique():
            if owner.setdefault(patient, number) != number:
                raise InputError(f"patient {patient!r} is on two sides of the split")
