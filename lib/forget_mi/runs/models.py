"""The models of a run: trained by notebook 02, unlearned by notebook 03, saved with a manifest and
loaded again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator

from forget_mi.data import Cohort, Request, make_examples, rows_of
from forget_mi.errors import InputError
from forget_mi.files import replace_when_whole, sha256_of, sha256_of_text, write_text
from forget_mi.models import (
    MANIFEST,
    WEIGHTS,
    Checkpoint,
    ImageTextModel,
    load_checkpoint,
    load_trained,
    read_manifest,
    require_model,
    save_checkpoint,
    weights_file,
)
from forget_mi.runs.parallel import parallel_models, run_parallel
from forget_mi.runs.params import to_plain
from forget_mi.runs.project import display_path, show_progress
from forget_mi.runs.provenance import provenance
from forget_mi.runs.run import Run
from forget_mi.source_code import code_fingerprint
from forget_mi.training import (
    TrainingLog,
    assign_folds,
    describe_device,
    make_accelerator,
    peak_memory_bytes,
    rows_outside_fold,
    train_new,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_model(run: Run, name: str, cohort: Cohort, finished: bool = True) -> Checkpoint:
    """A model that notebook 02 (original, retrained-1, reference-1, ...) or 03 (an approach) left.

    finished: whether the stage must be finished; without it, a model of 02 is read as soon as it is
    whole.

    Raises InputError where it is damaged, of another cohort, or unlearned from another original.
    """
    trained = run.require("02_train") if finished else run.stage("02_train")
    if (
        not finished
        or name == "original"
        or name in {**run.retrained_seeds(), **run.reference_seeds()}
    ):
        return load_checkpoint(trained / name, fingerprint=cohort.fingerprint)
    folder = run.require(f"03_unlearn/{name}") / "model"
    unlearned = load_checkpoint(folder, fingerprint=cohort.fingerprint)
    if (
        unlearned.manifest["original_sha256"]
        != read_manifest(trained / "original")["weights_sha256"]
    ):
        raise InputError(
            f"{display_path(folder)}: was unlearned from another original; run notebook 03_unlearn "
            "again"
        )
    return unlearned


def save_model(
    folder: Path,
    model: ImageTextModel,
    tokenizer: PreTrainedTokenizerBase | None,
    cohort: Cohort,
    request: Request | None,
    *,
    accelerator: Accelerator,
    **facts: Any,
) -> dict[str, Any]:
    """Save a model with a manifest: the cohort, the request that it must not know (None: it was
    trained on everyone), the given facts, device and provenance. Return the manifest."""
    asked = request and {
        "name": request.name,
        "patients": len(request.patients),
        "images": len(request.forget_rows(cohort)),
        "fraction": round(request.fraction(cohort), 4),
    }
    manifest = {
        "cohort": cohort.name,
        "cohort_fingerprint": cohort.fingerprint,
        "request": asked,
        **facts,
        "peak_memory_bytes": peak_memory_bytes(accelerator.device),
        "device": describe_device(accelerator.device),
        "precision": accelerator.mixed_precision,
        **provenance(),
    }
    if accelerator.is_main_process:
        save_checkpoint(folder, model, tokenizer, manifest)
    accelerator.wait_for_everyone()
    return read_manifest(folder)


# ---- training ------------------------------------------------------------------------------------


def train_models(
    run: Run, names: Iterable[str], cohort: Cohort, request: Request
) -> dict[str, dict[str, Any]]:
    """`train_model` for each name, in parallel where the params leave cores to others; their
    manifests by name."""
    names, how = list(names), {"cohort": cohort, "request": request}
    if parallel_models(run.params.device) == 1:
        accelerator = make_accelerator(run.params.device)
        return {name: train_model(run, name, **how, accelerator=accelerator) for name in names}
    train = partial(_train_in_process, run=run, **how)
    return dict(
        zip(names, run_parallel(train, names, run.params.device, show_progress()), strict=True)
    )


def _train_in_process(name: str, run: Run, cohort: Cohort, request: Request) -> dict[str, Any]:
    os.environ["FORGET_MI_PROGRESS"] = "0"  # bars of several processes would write over each other
    return train_model(run, name, cohort, request, make_accelerator(run.params.device))


def train_model(
    run: Run, name: str, cohort: Cohort, request: Request, accelerator: Accelerator
) -> dict[str, Any]:
    """Train `original` on all training patients, `retrained-k` without the request, or
    `reference-k` without a fold of the patients; return its manifest.

    A whole checkpoint of the same params, seed, records and code is reused, also one of a run in a
    folder beside this one (the original does not depend on the request). A training that was killed
    goes on from its last whole epoch and ends with the same weights.
    """
    folder = run.stage("02_train") / name
    kind = {"original": "original", "reference": "reference"}.get(name.split("-")[0], "retrain")
    if kind == "reference":
        rows = _reference_rows(run, name, cohort)
    else:
        rows = request.retain_rows(cohort) if kind == "retrain" else rows_of(cohort, "train")
    patients = _hashed_patients(run, cohort, rows) if kind == "reference" else None
    identity = _identity(run, name, cohort, rows)
    if _reuse(run, name, identity, patients, accelerator):
        return read_manifest(folder)
    state = folder.with_name(f".{name}.state-{sha256_of_text(json.dumps(identity))[:12]}")
    given = run.params.model.given(name)
    if given:
        model, tokenizer = _take_over(run, given, cohort)
        log = TrainingLog()
    else:
        model, tokenizer, log = train_new(
            cohort,
            rows,
            run.params.model,
            run.params.training,
            seed=identity["seed"],
            accelerator=accelerator,
            state_folder=state,
            progress=show_progress() and name,
        )
    manifest = save_model(
        folder,
        model,
        tokenizer,
        cohort,
        request if kind == "retrain" else None,
        accelerator=accelerator,
        method=kind,
        setting="",
        seed=identity["seed"],
        seconds=None if given else log.seconds,
        work=None if given else len(rows) * run.params.training.epochs,
        epochs=log.epochs,
        best_epoch=log.best_epoch,
        identity=identity,
        patients=patients,
    )
    if accelerator.is_main_process:
        shutil.rmtree(state, ignore_errors=True)
    return manifest


def _identity(run: Run, name: str, cohort: Cohort, rows: np.ndarray) -> dict[str, Any]:
    """Everything that a trained model depends on: params, seed, records and code."""
    # By row of the cohort, whose ids another run hashes otherwise.
    records = [[int(row) for row in part] for part in (rows, rows_of(cohort, "validation"))]
    identity = {
        **run.params.as_dict("model", "training", "device"),
        "seed": {"original": run.original_seed, **run.retrained_seeds(), **run.reference_seeds()}[
            name
        ],
        "cohort": cohort.fingerprint,
        "records": sha256_of_text(json.dumps(records))[:16],
        "library": code_fingerprint("training.loop", "training.devices"),
    }
    if given := run.params.model.given(name):
        identity |= {"weights": sha256_of(weights_file(given))}
    if name in run.reference_seeds():
        identity |= run.params.as_dict("references")
    return to_plain(identity)


def _reuse(
    run: Run,
    name: str,
    identity: Mapping[str, Any],
    patients: list[str] | None,
    accelerator: Accelerator,
) -> bool:
    """Whether a checkpoint with this identity is in the run now: its own, or copied from a run
    beside it."""
    folder = run.stage("02_train") / name
    for source in (folder, *sorted(run.folder.parent.glob(f"*/02_train/{name}"))):
        manifest = matching_manifest(source, identity)
        if manifest is None:
            continue
        if source != folder and accelerator.is_main_process:
            with replace_when_whole(folder) as temporary:
                shutil.copytree(source, temporary, dirs_exist_ok=True)
                if patients is not None:  # the other run has hashed them with a salt of its own
                    renamed = {**manifest, "patients": patients}
                    write_text(temporary / MANIFEST, json.dumps(renamed, indent=2) + "\n")
        accelerator.wait_for_everyone()
        return True
    return False


def matching_manifest(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a whole checkpoint with this identity, or None."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except InputError:
        return None
    whole = (folder / WEIGHTS).is_file() and sha256_of(folder / WEIGHTS) == manifest.get(
        "weights_sha256"
    )
    return manifest if whole and manifest.get("identity") == identity else None


def _take_over(
    run: Run, path: str, cohort: Cohort
) -> tuple[ImageTextModel, PreTrainedTokenizerBase | None]:
    """A model that was trained elsewhere. Raises InputError where it can't be read or unlearned."""
    model, tokenizer = load_trained(path, run.params.model, len(cohort.classes))
    some = make_examples(cohort, rows_of(cohort, "validation")[:4], tokenizer, model.max_tokens)
    require_model(model, some, len(cohort.classes), tokenizer, name=display_path(Path(path)))
    return model, tokenizer


def _hashed_patients(run: Run, cohort: Cohort, rows: np.ndarray) -> list[str]:
    """The patients of some rows, hashed and sorted."""
    return sorted(run.hashed(patient) for patient in cohort.table.patient_id.iloc[rows].unique())


def _reference_rows(run: Run, name: str, cohort: Cohort) -> np.ndarray:
    """Training rows of a reference model: all but its fold. Folds of references that exist already
    stay as they are."""
    ids = {run.hashed(patient): patient for patient in cohort.table.patient_id.unique()}
    known = {}
    for other in run.reference_seeds():
        folder = run.stage("02_train") / other
        saved = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
        same_folds = saved.get("identity", {}).get("references") == to_plain(run.params.references)
        if other != name and same_folds and saved["cohort_fingerprint"] == cohort.fingerprint:
            known[other] = [ids[patient] for patient in saved["patients"] if patient in ids]
    folds = assign_folds(cohort, run.params.references, known)
    return rows_outside_fold(cohort, folds, list(run.reference_seeds()).index(name))
