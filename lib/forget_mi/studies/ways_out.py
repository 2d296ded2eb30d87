"""Three ways out: prepare (SISA), prevent (differential privacy), or unlearn; on the same cohort,
requests and audit, with what each costs before a request and by it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from forget_mi.data import Cohort, Request, make_examples, make_request, rows_of, split_by_patient
from forget_mi.files import sha256_of_text
from forget_mi.models import (
    MANIFEST,
    Checkpoint,
    build_model,
    build_tokenizer,
    load_checkpoint,
    save_checkpoint,
    vocabulary_size,
)
from forget_mi.runs import open_run, shadow_set
from forget_mi.source_code import code_fingerprint
from forget_mi.studies.study import Study, UnlearningResult, approach_settings, train_study
from forget_mi.studies.sweep import Sweep
from forget_mi.training import (
    PrivacyConfig,
    Shadows,
    Sisa,
    SisaConfig,
    assign_slices,
    expected_share,
    predict,
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
# Private shadow models share no seed with other shadow models, which start at 900,000. Each takes
# several times as long, so they are fewer, and one set serves every epsilon.
PRIVATE_SHADOWS, SHADOW_EPSILON, SEEDS = 8, 3.0, 990_000


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

    LiRA on a model with privacy has shadow models that were trained with privacy as well; on all
    others it has the run's.

    studies: one seed's, a request each; the first one's models in shards and with privacy serve
    all. folder: where these are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = studies[0]
    sisas = [_sisa(first, shards, folder) for shards in SHARDS]
    privates = {epsilon: _private(first, epsilon, folder) for epsilon in EPSILONS}
    private_shadows = _private_shadows(first)
    rows: list[dict[str, Any]] = []
    for study in studies:
        for line in study.baseline_rows():
            retrains = line["approach"] != "original"
            way, guarantee = ("retrain", "exact") if retrains else ("none", "none")
            before = {"trainings_before": 1.0}
            rows.append(_about(study.request, way, guarantee) | line | before)
        for approach in UNLEARNED:
            settings = approach_settings(approach, tuned)
            line = study.row(approach, study.forget(parse_approach(approach)[0], settings))
            line["trainings_before"] = 1 + line["one_off_trainings"]
            rows.append(_about(study.request, "unlearn", "empirical") | line)
        rows += [_served(study, sisa, folder) for sisa in sisas]
        for epsilon, private in privates.items():
            found = UnlearningResult(private.checkpoint, {}, 0.0, 0.0)
            judged = replace(study, shadows=private_shadows)
            line = judged.row(f"dp-sgd-{epsilon:g}", found)
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
    """A model trained with differential privacy on all training patients, kept in the folder."""
    place = folder / f"dp-sgd-{epsilon:g}"
    if not (place / MANIFEST).is_file():
        made = _trained_privately(study, study.cohort, epsilon, study.run.original_seed)
        spent = {"epsilon": made.epsilon, "delta": made.delta, "work": made.work}
        spent["cohort_fingerprint"] = study.cohort.fingerprint
        save_checkpoint(place, made.checkpoint.model, made.checkpoint.tokenizer, spent)
    saved = load_checkpoint(place, fingerprint=study.cohort.fingerprint)
    return PrivateModel(saved, *(saved.manifest[name] for name in ("epsilon", "delta", "work")))


def _trained_privately(study: Study, cohort: Cohort, epsilon: float, seed: int) -> PrivateModel:
    """A model trained on the training patients of a split cohort. Its words are those of validation
    reports, so that they say nothing of the training patients."""
    settings = replace(study.run.params.model, image_norm="group")
    train, validation = rows_of(cohort, "train"), rows_of(cohort, "validation")
    tokenizer = build_tokenizer(settings, [cohort.report_of(row) for row in validation])
    model = build_model(settings, len(cohort.classes), vocabulary_size(tokenizer), seed)
    sets = (
        make_examples(cohort, rows, tokenizer, model.max_tokens) for rows in (train, validation)
    )
    patients = cohort.table.patient_id.iloc[train].nunique()
    how = _privacy(study, epsilon, patients)
    log = train_private(model, *sets, how, seed=seed, accelerator=study.accelerator, progress=False)
    return PrivateModel(Checkpoint(model, tokenizer, {}), log.epsilon, log.delta, log.work)


def _privacy(study: Study, epsilon: float, patients: int) -> PrivacyConfig:
    epochs = study.run.params.training.epochs
    return PrivacyConfig(epsilon=epsilon, patients=min(PATIENTS_A_STEP, patients), epochs=epochs)


def _private_shadows(study: Study) -> Shadows | None:
    """The predictions of PRIVATE_SHADOWS shadow models trained with differential privacy, on the
    halves of the run's first other shadow models; None where the run has none. They lie beside
    those, for all seeds."""
    if study.shadows is None:
        return None
    models = shadow_set(study.run, study.cohort)
    made_of = {
        "privacy": asdict(_privacy(study, SHADOW_EPSILON, PATIENTS_A_STEP)),
        "code": code_fingerprint("training.private"),
    }
    key = sha256_of_text(json.dumps(made_of, sort_keys=True))[:12]
    folder = models.folder / f"private-{SHADOW_EPSILON:g}-{key}"
    folder.mkdir(exist_ok=True)
    count = min(PRIVATE_SHADOWS, models.settings.count)
    paths = [folder / f"shadow-{number:02d}.npz" for number in range(count)]
    # First what no other process is training, then what one was: several share the work.
    for timeout in (0, -1):
        for number, path in enumerate(paths):
            try:
                with FileLock(path.with_suffix(".lock"), timeout):
                    if not path.is_file():
                        _private_shadow(study, number).save(path)
            except Timeout:
                continue
    seen = [Shadows.load(path, len(study.cohort)) for path in paths]
    member = np.concatenate([each.member for each in seen])
    return Shadows([each.predictions[0] for each in seen], member, ~member)


def _private_shadow(study: Study, number: int) -> Shadows:
    """One of them."""
    cohort, models = study.cohort, shadow_set(study.run, study.cohort)
    how = (models.split_for(number), SHADOW_EPSILON, SEEDS + number)
    saved = _trained_privately(study, *how).checkpoint
    everyone = np.arange(len(cohort))
    member = np.isin(everyone, models.rows_of(number))[None]
    seen = predict(saved.model, study.examples(saved, everyone), study.accelerator)
    return Shadows([seen], member, ~member)


def _with_years(table: pd.DataFrame) -> pd.DataFrame:
    """With trainings_a_year."""
    one = table[table.request == "1 patient"].set_index("approach")
    share = one.expected_share * one.trainings_before
    share = share.fillna(one.share_of_retraining + one.share_of_references.fillna(0))
    a_year = A_YEAR * share.groupby(level=0).mean()
    return table.assign(trainings_a_year=table.approach.map(a_year))
