"""Reference models: each never saw one fold of the training patients, and says of them what a stranger's record says
(cross-fitting; method.md, 'Past the paper'). They teach; the models that judge are in shadows.py.

They belong to a split of a cohort: trained once, beside the original, they serve every later request, and forget its
patients too, each by the targets of another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from accelerate import Accelerator
from pydantic import Field

from forget_mi.checkpoints import Checkpoint
from forget_mi.cohorts.base import Cohort
from forget_mi.errors import InputError
from forget_mi.models import ImageTextModel
from forget_mi.params import config
from forget_mi.splits import Request, rows_of
from forget_mi.unlearning import UnlearningData, UnlearningLog, find
from forget_mi.unlearning.base import Reference


@config
class ReferenceConfig:
    """folds: into how many the training patients are cut; one reference model is trained without each, so that two
    cost about one training in all, and more cost folds - 1. 0 for none: methods that learn from them are then refused.
    seed: of the cut."""

    folds: Annotated[int, Field(ge=0, le=20)] = 2
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        if self.folds == 1:
            raise InputError("parameter references.folds = 1: 0 (none), or at least 2")

    def names(self) -> list[str]:
        """reference-1, reference-2, ..."""
        return [f"reference-{k + 1}" for k in range(self.folds)]


def fold_of_patients(cohort: Cohort, settings: ReferenceConfig, known: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The fold of each training patient, 0 to folds - 1: the one reference model that is not trained on them.

    Folds are stratified by the patients' most frequent label. known: by name, the patients that references which are
    there already were trained on; whom one of them alone does not know stays in its fold, so that a reference that was
    lost is made again for the same patients (those who are still in training).

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
            warnings.simplefilter("ignore")  # classes with fewer patients than folds: checked above and below
            for k, (_, away) in zip(missing, cut.split(left, left), strict=True):
                folds |= dict.fromkeys(left.index[away], k)
    _check_models(cohort, folds, settings)
    return folds


def rows_without(cohort: Cohort, folds: Mapping[str, int], fold: int) -> np.ndarray:
    """Training rows of everyone outside of a fold: what its reference model is trained on."""
    train = rows_of(cohort, "train")
    return train[cohort.table.patient_id.iloc[train].map(folds).to_numpy() != fold]


def _check_classes(cohort: Cohort, patients, settings: ReferenceConfig) -> None:
    for label, name in enumerate(cohort.classes):
        if patients.get(label, 0) < settings.folds:
            raise InputError(
                f"parameter references.folds = {settings.folds}: cohort {cohort.name} has {patients.get(label, 0)} "
                f"training patient(s) of class {name!r}, and each fold needs one; allowed are fewer folds, or 0 (none)"
            )


def _check_models(cohort: Cohort, folds: Mapping[str, int], settings: ReferenceConfig) -> None:
    table = cohort.table.iloc[rows_of(cohort, "train")]
    for k, name in enumerate(settings.names()):
        missing = set(table.label) - set(table.label[table.patient_id.map(folds) != k])
        if missing:
            raise InputError(
                f"{name}: no training example of class {cohort.classes[min(missing)]!r} is left without its fold; the "
                "cohort is too small for reference models"
            )


# ---- what they teach ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class References:
    """Trained reference models by name, and `saw`, by name the patients (hashed) that each was trained on and has not
    forgotten. hashed: an id of the cohort's table as `saw` has it."""

    checkpoints: Mapping[str, Checkpoint]
    saw: Mapping[str, frozenset[str]]
    hashed: Callable[[str], str]

    def __bool__(self) -> bool:
        return len(self.checkpoints) > 0

    def teach(self, data: UnlearningData, cohort: Cohort, without: str | None = None) -> UnlearningData:
        """The data of a request with what teaches a model to forget it: for each record of D_f the references (all but
        `without`) that never saw its patient.

        Raises InputError, with the references' names and the hashed patient, where each of them did.
        """
        patients = cohort.table.patient_id.iloc[data.forget.rows.numpy()]
        names = [name for name in self.checkpoints if name != without]
        stranger = {
            name: np.array([self.hashed(patient) not in self.saw[name] for patient in patients], dtype=bool)
            for name in names
        }
        known = ~np.any(list(stranger.values()), axis=0) if names else np.ones(len(patients), dtype=bool)
        if known.any():
            raise InputError(
                f"{' and '.join(names) or 'no reference'}: trained on patient "
                f"{self.hashed(patients.iloc[int(known.argmax())])}, whom the request names; only a reference "
                "that never saw the patient can teach: train them again (remove their folders)"
            )
        teachers = tuple(Reference.on(name, self.checkpoints[name], data, cohort, stranger[name]) for name in names)
        return replace(data, references=teachers)


@dataclass(frozen=True)
class Forgot:
    """What a request did to one reference: its model afterwards, the log (None where it had not seen the patients)."""

    model: ImageTextModel
    log: UnlearningLog | None

    @property
    def seconds(self) -> float:
        """What it cost."""
        return 0.0 if self.log is None else self.log.seconds


def forget_in_references(
    references: References,
    cohort: Cohort,
    request: Request,
    method: str,
    settings: Any,
    *,
    seed: int,
    accelerator: Accelerator,
) -> dict[str, Forgot]:
    """Each reference without the request's patients that it was trained on, by the method and by the targets of another
    reference (as they were before the request), which never saw them.

    What it retains is what it was trained on, less the request. A reference knows a part of the request only, and takes
    no more steps than its part asks for.
    """
    done = {}
    for number, (name, checkpoint) in enumerate(references.checkpoints.items(), start=1):
        own = cohort_of(references, name, cohort)
        mine = tuple(p for p in request.patients if references.hashed(p) in references.saw[name])
        if not mine:
            done[name] = Forgot(checkpoint.model, None)
            continue
        data = UnlearningData.from_cohort(
            own, Request(request.name, mine), checkpoint.tokenizer, checkpoint.model.max_tokens
        )
        model, log = find(method).unlearn(
            checkpoint.model,
            references.teach(data, own, without=name),
            replace(settings, least_steps=-(-settings.least_steps // len(references.checkpoints))),
            seed=seed + number,
            accelerator=accelerator,
            progress=False,
        )
        done[name] = Forgot(model, log)
    return done


def cohort_of(references: References, name: str, cohort: Cohort) -> Cohort:
    """The cohort as it is to one reference: the training patients that it never saw are in none of its sides."""
    saw = cohort.table.patient_id.map(references.hashed).isin(references.saw[name])
    split = cohort.table.split.where((cohort.table.split != "train") | saw, "elsewhere")
    return replace(cohort, table=cohort.table.assign(split=split))
