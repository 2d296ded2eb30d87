"""What reference models teach: for each forgotten record the outputs of a model that never saw its
patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate import Accelerator

from forget_mi.data import Cohort, Request
from forget_mi.errors import InputError
from forget_mi.models import Checkpoint, ImageTextModel
from forget_mi.unlearning.base import Reference, UnlearningData, UnlearningLog
from forget_mi.unlearning.registry import get_method


@dataclass(frozen=True)
class References:
    """Trained reference models by name, and `saw`, by name the patients (hashed) that each was
    trained on and has not forgotten. hashed: an id of the cohort's table as `saw` has it."""

    checkpoints: Mapping[str, Checkpoint]
    saw: Mapping[str, frozenset[str]]
    hashed: Callable[[str], str]

    def __bool__(self) -> bool:
        return len(self.checkpoints) > 0

    def teach(
        self, data: UnlearningData, cohort: Cohort, without: str | None = None
    ) -> UnlearningData:
        """The data of a request with what teaches a model to forget it: for each record of D_f the
        references (all but `without`) that never saw its patient.

        Raises InputError, with the references' names and the hashed patient, where each of them
        did.
        """
        patients = cohort.table.patient_id.iloc[data.forget.rows.numpy()]
        names = [name for name in self.checkpoints if name != without]
        stranger = {
            name: np.array(
                [self.hashed(patient) not in self.saw[name] for patient in patients], dtype=bool
            )
            for name in names
        }
        known = (
            ~np.any(list(stranger.values()), axis=0)
            if names
            else np.ones(len(patients), dtype=bool)
        )
        if known.any():
            raise InputError(
                f"{' and '.join(names) or 'no reference'}: trained on patient "
                f"{self.hashed(patients.iloc[int(known.argmax())])}, whom the request names; only "
                "a reference that never saw the patient can teach: train them again (remove their "
                "folders)"
            )
        teachers = tuple(
            Reference.from_checkpoint(name, self.checkpoints[name], data, cohort, stranger[name])
            for name in names
        )
        return replace(data, references=teachers)


@dataclass(frozen=True)
class UnlearnedReference:
    """What a request did to one reference: its model afterwards, the log (None where it had not
    seen the patients)."""

    model: ImageTextModel
    log: UnlearningLog | None

    @property
    def seconds(self) -> float:
        """What it cost."""
        return 0.0 if self.log is None else self.log.seconds


def unlearn_references(
    references: References,
    cohort: Cohort,
    request: Request,
    method: str,
    settings: Any,
    *,
    seed: int,
    accelerator: Accelerator,
) -> dict[str, UnlearnedReference]:
    """Each reference without the request's patients that it was trained on, by the method and by
    the targets of another reference (as they were before the request), which never saw them.

    What it retains is what it was trained on, less the request. A reference knows a part of the
    request only, and takes no more steps than its part asks for.
    """
    done = {}
    for number, (name, checkpoint) in enumerate(references.checkpoints.items(), start=1):
        own = reference_cohort(references, name, cohort)
        mine = tuple(p for p in request.patients if references.hashed(p) in references.saw[name])
        if not mine:
            done[name] = UnlearnedReference(checkpoint.model, None)
            continue
        data = UnlearningData.from_cohort(
            own, Request(request.name, mine), checkpoint.tokenizer, checkpoint.model.max_tokens
        )
        model, log = get_method(method).unlearn(
            checkpoint.model,
            references.teach(data, own, without=name),
            replace(settings, least_steps=-(-settings.least_steps // len(references.checkpoints))),
            seed=seed + number,
            accelerator=accelerator,
            progress=False,
        )
        done[name] = UnlearnedReference(model, log)
    return done


def reference_cohort(references: References, name: str, cohort: Cohort) -> Cohort:
    """The cohort as it is to one reference: the training patients that it never saw are in none of
    its sides."""
    saw = cohort.table.patient_id.map(references.hashed).isin(references.saw[name])
    split = cohort.table.split.where((cohort.table.split != "train") | saw, "elsewhere")
    return replace(cohort, table=cohort.table.assign(split=split))
