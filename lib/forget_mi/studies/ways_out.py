"""Three ways out: prepare (SISA), prevent (differential privacy), or unlearn; on the same cohort,
requests and audit, with what each costs before a request and by it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from forget_mi.data import Request, make_examples, make_request, rows_of, split_by_patient
from forget_mi.models import (
    MANIFEST,
    Checkpoint,
    build_model,
    build_tokenizer,
    load_checkpoint,
    save_checkpoint,
    vocabulary_size,
)
from forget_mi.runs import open_run
from forget_mi.studies.study import Study, UnlearningResult, approach_settings, train_study
from forget_mi.studies.sweep import Sweep
from forget_mi.training import (
    PrivacyConfig,
    Sisa,
    SisaConfig,
    assign_slices,
    expected_share,
    train_private,
)
from forget_mi.unlearning import parse_approach

SHARDS, SLICES = (2, 4, 8), 4
EPSILONS = (1.0, 3.0, 8.0)
# One patient; shares of the training images.
REQUESTS = (None, 0.01, 0.1)
UNLEARNED = ("held_out_targets", "forget_mi-multimodal")
# Requests of one patient in a year of weekly ones.
A_YEAR = 52
PATIENTS_A_STEP = 64


@dataclass(frozen=True)
class PrivateModel:
    """A model trained with differential privacy. epsilon, delta: by patient. work: records."""

    checkpoint: Checkpoint
    epsilon: float
    delta: float
    work: float


def ways_out_runs(sweep: Sweep, seed: int, folder: Path) -> list[Study]:
    """A seed of the sweep with each of REQUESTS, smallest first, in folders of their own."""
    studies = []
    for fraction in REQUESTS:
        changes = {**sweep.overrides, "seed": seed, "request.fraction": fraction or REQUESTS[1]}
        name = "1patient" if fraction is None else f"{100 * fraction:g}pct"
        run = open_run(sweep.profile, folder / f"seed{seed}-{name}", changes)
        cohort = split_by_patient(run.source(), run.params.split)
        asked = make_request(cohort, run.params.request)
        if fraction is None:
            asked = Request(name, asked.patients[:1])
        studies.append(train_study(run, cohort, asked))
    return studies


def ways_out(studies: Sequence[Study], tuned: str | None, folder: Path) -> pd.DataFrame:
    """A row a way and request: the columns of `Study.row`, and
    - way: prepare, prevent, unlearn or retrain; guarantee: exact, '(epsilon, delta)' or empirical;
    - request (1 patient, 1%, 10%) and patients, how many it has;
    - trainings_before: what it cost before any request, in trainings of F_og by records, itself
      included (the references of held-out targets beside it);
    - expected_share: of the whole SISA training, by the theory; share_of_training: what it was;
    - trainings_a_year: A_YEAR requests of one patient after another, in trainings, by what one
      cost (SISA: by the theory).

    studies: one seed's, a request each; the first one's models in shards and with privacy serve
    all. folder: where these are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = studies[0]
    sisas = [_sisa(first, shards, folder) for shards in SHARDS]
    privates = {epsilon: _private(first, epsilon, folder) for epsilon in EPSILONS}
    rows: list[dict[str, Any]] = []
    for study in studies:
        for line in study.baseline_rows():
            retrains = line["approach"] != "original"
            way, guarantee = ("retrain", "exact") if retrains else ("none", "none")
            before = {"trainings_before": 1.0}
            rows.append(_about(study.request, way, guarantee) | line | before)
        for approach in UNLEARNED:
            settings = approach_settings(study.run, approach, tuned)
            line = study.row(approach, study.forget(parse_approach(approach)[0], settings))
            line["trainings_before"] = 1 + line["one_off_trainings"]
            rows.append(_about(study.request, "unlearn", "empirical") | line)
        rows += [_served(study, sisa, folder) for sisa in sisas]
        for epsilon, private in privates.items():
            found = UnlearningResult(private.checkpoint, {}, 0.0, 0.0)
            line = study.row(f"dp-sgd-{epsilon:g}", found)
            line["trainings_before"] = private.work / _training(study)
            said = f"({private.epsilon:.2g}, {private.delta:.2g}) by patient"
            rows.append(_about(study.request, "prevent", said) | line)
    return _with_years(pd.DataFrame(rows))


def _about(asked: Request, way: str, guarantee: str) -> dict[str, Any]:
    patients = len(asked.patients)
    name = "1 patient" if patients == 1 else asked.name.replace("pct", "%")
    return {"request": name, "patients": patients, "way": way, "guarantee": guarantee}


def _training(study: Study) -> float:
    """Records of training F_og."""
    return float(len(rows_of(study.cohort, "train")) * study.run.params.training.epochs)


def _sisa(study: Study, shards: int, folder: Path) -> Sisa:
    """The model in shards, trained on everybody."""
    params, settings = study.run.params, SisaConfig(shards=shards, slices=SLICES)
    places = assign_slices(study.cohort, settings)
    how = (study.cohort, params.model, params.training, settings, places)
    sisa = Sisa(folder / f"sisa-{shards}", *how, seed=study.run.original_seed)
    sisa.train(study.accelerator, progress=False)
    return sisa


def _served(study: Study, sisa: Sisa, folder: Path) -> dict[str, Any]:
    """A request served by retraining the shards that it touches, on a copy."""
    patients, shards = study.request.patients, sisa.settings.shards
    with tempfile.TemporaryDirectory(dir=folder) as copy:
        served = sisa.at(shutil.copytree(sisa.folder, Path(copy) / "sisa"))
        work = served.train(study.accelerator, without=set(patients), progress=False)
        line = study.row(f"sisa-{shards}", UnlearningResult(served, {}, float("nan"), work))
    more = {
        "trainings_before": sisa.work() / _training(study),
        "share_of_training": work / sisa.work(),
        "expected_share": expected_share(len(patients), shards, sisa.settings.slices),
    }
    return _about(study.request, "prepare", "exact") | line | more


def _private(study: Study, epsilon: float, folder: Path) -> PrivateModel:
    """A model trained with differential privacy on all training patients, kept in the folder. Its
    words are those of validation reports, so that they say nothing of the training patients."""
    params, cohort = study.run.params, study.cohort
    place = folder / f"dp-sgd-{epsilon:g}"
    if not (place / MANIFEST).is_file():
        settings = replace(params.model, image_norm="group")
        train, validation = rows_of(cohort, "train"), rows_of(cohort, "validation")
        tokenizer = build_tokenizer(settings, [cohort.report_of(row) for row in validation])
        seed = study.run.original_seed
        size = vocabulary_size(tokenizer)
        model = build_model(settings, len(cohort.classes), size, seed)
        sets = (
            make_examples(cohort, rows, tokenizer, model.max_tokens) for rows in (train, validation)
        )
        patients = min(PATIENTS_A_STEP, cohort.table.patient_id.iloc[train].nunique())
        how = PrivacyConfig(epsilon=epsilon, patients=patients, epochs=params.training.epochs)
        log = train_private(
            model, *sets, how, seed=seed, accelerator=study.accelerator, progress=False
        )
        spent = {"epsilon": log.epsilon, "delta": log.delta, "work": log.work}
        save_checkpoint(
            place, model, tokenizer, {"cohort_fingerprint": cohort.fingerprint, **spent}
        )
    saved = load_checkpoint(place, fingerprint=cohort.fingerprint)
    return PrivateModel(saved, *(saved.manifest[name] for name in ("epsilon", "delta", "work")))


def _with_years(table: pd.DataFrame) -> pd.DataFrame:
    """With trainings_a_year."""
    one = table[table.request == "1 patient"].set_index("approach")
    share = one.expected_share * one.trainings_before
    share = share.fillna(one.share_of_retraining + one.share_of_references.fillna(0))
    a_year = A_YEAR * share.groupby(level=0).mean()
    return table.assign(trainings_a_year=table.approach.map(a_year))
