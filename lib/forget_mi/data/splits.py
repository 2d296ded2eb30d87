"""Splits by patient: who is in training, validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from forget_mi.config import config
from forget_mi.data.cohort import Cohort
from forget_mi.data.requests import cohort_ids, read_forget_csv
from forget_mi.errors import InputError

SIDES = ("train", "validation", "test")


@config
class SplitConfig:
    """test, validation: share of the images on that side, met as well as whole patients allow.
    seed: of the draw. published: the test side is the one that the collection was published with
    (its folds); only validation is drawn. keep_in_training: forget CSVs whose patients stay in
    training, so that one original serves all these requests."""

    test: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0
    published: bool = False
    keep_in_training: tuple[Path, ...] = ()


def split_by_patient(cohort: Cohort, settings: SplitConfig) -> Cohort:
    """The cohort with a column `split` (train, validation or test), the same for all images of a
    patient, stratified by label as well as whole patients allow (scikit-learn's
    StratifiedGroupKFold).

    Raises InputError where a class has too few patients to stand on all three sides.
    """
    table = cohort.table
    for label, name in enumerate(cohort.classes):
        patients = table.patient_id[table.label == label].nunique()
        if patients < len(SIDES):
            raise InputError(
                f"cohort {cohort.name}: class {name!r} has {patients} patient(s); a patient-level "
                f"split needs at least {len(SIDES)}, one each for {', '.join(SIDES)}"
            )
    side = np.array(["train"] * len(table), dtype=object)
    if settings.published:
        side[_published_test(cohort)] = "test"
    else:
        side[_one_fold(table, settings.test, settings.seed)] = "test"
    kept = {
        patient
        for path in settings.keep_in_training
        for patient in cohort_ids(cohort, read_forget_csv(path))
    }
    rest = np.flatnonzero((side == "train") & ~table.patient_id.isin(kept).to_numpy())
    target_size = settings.validation * len(table)
    if len(rest) <= target_size:
        raise InputError(
            f"split.keep_in_training: with these patients kept, {len(rest)} images are left for a "
            f"validation side of {target_size:.0f}"
        )
    share_of_rest = min(settings.validation / (1 - settings.test), 0.5)
    if settings.published or kept:
        share_of_rest = min(target_size / len(rest), 0.5)
    side[rest[_one_fold(table.iloc[rest], share_of_rest, settings.seed)]] = "validation"
    split = replace(cohort, table=table.assign(split=side))
    missing = set(range(len(cohort.classes))) - set(split.table.label[side == "train"])
    if missing:
        raise InputError(
            f"cohort {cohort.name}: class {cohort.classes[min(missing)]!r} has no training patient"
        )
    return split


def _published_test(cohort: Cohort) -> np.ndarray:
    """Rows whose published fold is TEST."""
    if "fold" not in cohort.table:
        raise InputError(
            f"parameter split.published = True: cohort {cohort.name} was not published with folds"
        )
    test = (cohort.table.fold == "TEST").to_numpy()
    if not test.any():
        raise InputError(f"cohort {cohort.name}: no row has the fold TEST")
    return np.flatnonzero(test)


def _one_fold(table: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    from sklearn.model_selection import (
        StratifiedGroupKFold,  # a second to import, for who draws a split
    )

    # No more folds than there are patients, or images of the most frequent class.
    folds = max(
        2, min(round(1 / share), table.patient_id.nunique(), table.label.value_counts().max())
    )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    # By number in the order of the table, so that the draw does not depend on how the ids are
    # hashed.
    return next(splitter.split(table, table.label, pd.factorize(table.patient_id)[0]))[1]


def assert_disjoint(cohort: Cohort, sides: Iterable[Sequence[int]]) -> None:
    """Raise InputError where a patient has rows in more than one of the given sets of rows."""
    owner: dict[str, int] = {}
    for number, rows in enumerate(sides):
        for patient in cohort.table.patient_id.iloc[list(rows)].unique():
            if owner.setdefault(patient, number) != number:
                raise InputError(f"patient {patient!r} is on two sides of the split")
