"""How worn a served model is, by what its owner has (`evaluation.wear`), for ledger and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forget_mi.data import Cohort, Request, make_examples, rows_of
from forget_mi.evaluation import FORGOTTEN
from forget_mi.evaluation.wear import WearModel, signs_of_wear
from forget_mi.models import load_checkpoint, read_manifest
from forget_mi.requests.served_model import DELETED, ServedModel
from forget_mi.runs import Run
from forget_mi.runs.policies import load_alarm
from forget_mi.training import make_accelerator, predict


def wear_of(
    served: ServedModel, now: Path, cohort: Cohort, request: Request
) -> dict[str, Any] | None:
    """What the alarm says of the model in the folder `now`, which has just served a request: gap
    (estimated), threshold, retrain (whether it is due), signs, in_words. None where no alarm was
    calibrated for the run's profile. Where the model as it was trained was destroyed there is
    nothing to compare with: gap is None, and retraining is due, after which there is.

    cohort: as it was before the request.
    """
    alarm = load_alarm(served.params.profile)
    if alarm is None:
        return None
    facts = {"gap": None, "threshold": alarm.threshold, "retrain": True, "signs": {}}
    if gone := served.destroyed():
        return facts | {"in_words": f"can't be estimated, since {gone}; retrain to have it again"}
    accelerator = make_accelerator(served.params.device)
    rows = request.retain_rows(cohort), rows_of(cohort, "validation")
    sides = []
    for folder in (now, served.last_trained()):
        saved = load_checkpoint(folder)
        how = saved.tokenizer, saved.model.max_tokens
        sides += [
            predict(saved.model, make_examples(cohort, each, *how), accelerator) for each in rows
        ]
    signs = signs_of_wear(*sides, _share_since_training(served, cohort, request))
    model = WearModel(alarm.coefficients)
    gap = model.gap(signs)
    due = gap > alarm.threshold
    advice = "no need to retrain"
    if due:
        advice = f"retrain, above all because {model.reason(signs)}; {_cost_of_training(served)}"
    words = f"estimated gap to a retrained model {gap:.3f}, threshold {alarm.threshold:g}: {advice}"
    return facts | {"gap": gap, "retrain": due, "signs": signs, "in_words": words}


def _cost_of_training(served: ServedModel) -> str:
    """In words, by what the last training took."""
    seconds = read_manifest(served.last_trained()).get("seconds")  # None: trained elsewhere
    took = f" (the last took {seconds / 3600:.2g} hours)" if seconds else ""
    references = Run(served.folder, served.params).reference_seeds()
    new = f", and {len(references)} new reference models to go on with" if references else ""
    return f"that costs a training{took}{new}"


def _share_since_training(served: ServedModel, cohort: Cohort, request: Request) -> float:
    """Of the records that the model was trained on, those that were taken since, with this
    request's."""
    gone = set()
    for entry in served.ledger:
        gone = set() if entry["approach"] == "retrain" else gone | set(entry["patients"])
    patients = cohort.table.patient_id
    taken = patients.map(served.hashed).isin(gone) & cohort.table.split.isin([FORGOTTEN, DELETED])
    asked = len(request.forget_rows(cohort))
    there = len(rows_of(cohort, "train"))
    return float((np.count_nonzero(taken) + asked) / (np.count_nonzero(taken) + there))
