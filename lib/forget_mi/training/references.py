"""Reference models: each never saw one fold of the training patients, so that its outputs for them
are those of a model that does not know them (cross-fitting; method.md, 'Past the paper'). They
teach; the models that
judge are in shadows.py.

They belong to a split of a cohort: trained once, beside the original, they serve every later
request, and forget its patients too, each by the targets of another.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from forget_mi.data import Cohort, rows_of
from forget_mi.errors import InputError
from forget_mi.training.config import ReferenceConfig


def assign_folds(
    cohort: Cohort, settings: ReferenceConfig, known: Mapping[str, Iterable[str]]
) -> dict[str, int]:
    """The fold of each training patient, 0 to folds - 1: the one reference model that is not
    trained on them.

    Folds are stratified by the patients' most frequent label. known: by name, the patients that
    references which are there already were trained on; whom one of them alone does not know stays
    in its fold, so that a reference that was lost is made again for the same patients (those who
    are still in training).

    Raises InputError where a fold, or what is left without it, would lack a class.
    """
    from sklearn.model_selection import StratifiedKFold

    table = cohort.table.iloc[rows_of(cohort, "train")]
    label = table.groupby("patient_id", sort=False).label.agg(lambda labels: labels.mode().iloc[0])
    names, folds = settings.names(), {}
    for k, name in enumerate(names):
        if name in known:
            folds |= dict.fromkeys(label.index.difference(list(known[name]), sort=False), k)
    missing = [k for k, name in enumerate(names) if name not in known]
    left = label[~label.index.isin(list(folds))]
    if len(missing) == 1:
        folds |= dict.fromkeys(left.index, missing[0])
    elif missing:
        _check_classes(cohort, left.value_counts(), settings)
        cut = StratifiedKFold(len(missing), shuffle=True, random_state=settings.seed)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # classes with fewer patients than folds: checked above and below
            for k, (_, away) in zip(missing, cut.split(left, left), strict=True):
                folds |= dict.fromkeys(left.index[away], k)
    _check_models(cohort, folds, settings)
    return folds


def rows_outside_fold(cohort: Cohort, folds: Mapping[str, int], fold: int) -> np.ndarray:
    """Training rows of everyone outside of a fold: what its reference model is trained on."""
    train = rows_of(cohort, "train")
    return train[cohort.table.patient_id.iloc[train].map(folds).to_numpy() != fold]


def _check_classes(cohort: Cohort, patients, settings: ReferenceConfig) -> None:
    for label, name in enumerate(cohort.classes):
        if patients.get(label, 0) < settings.folds:
            raise InputError(
                f"parameter references.folds = {settings.folds}: cohort {cohort.name} has "
                f"{patients.get(label, 0)} training patient(s) of class {name!r}, and each fold "
                "needs one; allowed are fewer folds, or 0 (none)"
            )


def _check_models(cohort: Cohort, folds: Mapping[str, int], settings: ReferenceConfig) -> None:
    table = cohort.table.iloc[rows_of(cohort, "train")]
    for k, name in enumerate(settings.names()):
        missing = set(table.label) - set(table.label[table.patient_id.map(folds) != k])
        if missing:
            raise InputError(
                f"{name}: no training example of class {cohort.classes[min(missing)]!r} is left "
                "without its fold; the cohort is too small for reference models"
            )
