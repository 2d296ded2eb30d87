"""The reference models of a run: loaded as teachers, and saved again once they forgot a request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forget_mi.data import Cohort, Request
from forget_mi.errors import InputError
from forget_mi.models import MANIFEST
from forget_mi.runs.models import load_model, save_model
from forget_mi.runs.params import without_removed
from forget_mi.runs.project import display_path
from forget_mi.runs.provenance import first_difference
from forget_mi.runs.run import Run
from forget_mi.unlearning import References, UnlearnedReference


def load_references(run: Run, cohort: Cohort) -> References:
    """The reference models that notebook 02 left; none where one is missing and the method needs
    none.

    Raises InputError where one is missing or damaged, or of another cohort, model or training.
    """
    trained = run.stage("02_train")
    complete = all((trained / name / MANIFEST).is_file() for name in run.reference_seeds())
    names = run.reference_seeds() if complete or run.needs_references else {}
    checkpoints = {name: load_model(run, name, cohort, finished=False) for name in names}
    expected = run.params.as_dict("model", "training")
    for name, saved in checkpoints.items():
        identity = without_removed(saved.manifest["identity"], name)
        made_with = {section: identity.get(section) for section in expected}
        if made_with != expected:
            where, old, new = first_difference(made_with, expected, "params")
            raise InputError(
                f"{display_path(trained / name)}: was trained with {where} = {old!r}, the run has "
                f"{new!r}; remove the folder, and notebook 02 trains it again"
            )
    saw = {name: frozenset(saved.manifest["patients"]) for name, saved in checkpoints.items()}
    everyone = (
        {run.hashed(patient) for patient in cohort.table.patient_id.unique()} if saw else set()
    )
    for name, patients in saw.items():
        if not patients <= everyone:
            raise InputError(
                f"{display_path(trained / name)}: names {len(patients - everyone)} patients who "
                "are not in the cohort (was another salt used to hash them?); remove the folder, "
                "and it is trained again"
            )
    return References(checkpoints, saw, run.hashed)


def save_references(
    run: Run,
    folder: Path,
    unlearned: Mapping[str, UnlearnedReference],
    cohort: Cohort,
    request: Request,
    **facts: Any,
) -> dict[str, str]:
    """Save the references after a request, which none of them knows any longer; return their hashes
    by name.

    facts: the accelerator, and the facts of `save_model` that they share.
    """
    hashes, gone = {}, {run.hashed(patient) for patient in request.patients}
    for name, reference in unlearned.items():
        before = load_model(run, name, cohort)
        own = {key: before.manifest[key] for key in ("identity", "seed")}
        own |= {"patients": [p for p in before.manifest["patients"] if p not in gone]}
        own |= {"method": "reference", "setting": "", "seconds": reference.seconds}
        saved = save_model(
            folder / name, reference.model, before.tokenizer, cohort, request, **own, **facts
        )
        hashes[name] = saved["weights_sha256"]
    return hashes
