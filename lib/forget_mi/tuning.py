"""Choosing hyper-parameters: one rule for every method, on validation and forget data alone.

A real user has no retrained model, and the test set is there to judge. What is known without them: patients who
certainly were never trained on (D_v), and that forgotten patients should look like them; and that those who stay should
look as they did. The latter is checked on a tenth of D_r that the method under trial does not get to see: D_s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import yaml
from accelerate import Accelerator
from pydantic import Field
from tqdm.auto import tqdm

from forget_mi.batches import Examples
from forget_mi.checkpoints import load_checkpoint
from forget_mi.code import code_fingerprint
from forget_mi.files import sha256_of_text, write_text
from forget_mi.metrics import Predictions, binary_auc, macro_f1, mean_auc, predict
from forget_mi.models import ImageTextModel
from forget_mi.params import build, config
from forget_mi.unlearning import UnlearningData, find
from forget_mi.unlearning.base import LogUniform, OneOf, SearchSpace, Uniform, UnlearningLog

if TYPE_CHECKING:
    import optuna
    from optuna.storages import JournalStorage


@config
class TuningConfig:
    """trials: of each method, the same for all. seeds, fractions: the splits and requests on which each trial is
    scored, never those that are reported. budget: the largest share of retraining's work that a trial may cost.
    withheld: share of the retained patients that a trial does not see. patience: trials before the median rule may cut
    one short. seed: of the search."""

    trials: Annotated[int, Field(ge=1, le=10_000)] = 16
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (10, 11)
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.03)
    budget: Annotated[float, Field(gt=0, le=1)] = 0.12
    withheld: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 5
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Case:
    """One split and request to tune on: F_og, the data that a method is given, the records D_s of those who stay that
    it is not given, the seed, and the work of retraining (records times epochs)."""

    name: str
    original: ImageTextModel
    data: UnlearningData
    stay: Examples
    seed: int
    retraining_work: float


def cases_of(
    profile: str | Path,
    settings: TuningConfig,
    accelerator: Accelerator,
    overrides: Mapping[str, Any] | None = None,
    *,
    folder: Path,
    references: bool = False,
) -> list[Case]:
    """The tuning cases of a profile. Their original models are trained once, in run folders below `folder`; so are the
    reference models, where the method that is tuned needs them."""
    # runs needs the profiles, and they need TuningConfig.
    from forget_mi.cohorts.pseudonyms import draw_salt
    from forget_mi.runs import open_run
    from forget_mi.splits import make_request, split_by_patient

    draw_salt(folder)
    cases = []
    for seed in settings.seeds:
        for fraction in settings.fractions:
            name = f"seed{seed}-{100 * fraction:g}pct"
            changes = {**(overrides or {}), "seed": seed, "request.fraction": fraction}
            run = open_run(profile, folder / name, changes)
            params = run.params
            cohort = split_by_patient(run.source(), params.split)
            request = make_request(cohort, params.request)
            run.train("original", cohort, request, accelerator)
            original = load_checkpoint(run.stage("02_train") / "original", fingerprint=cohort.fingerprint)
            data = UnlearningData.from_cohort(cohort, request, original.tokenizer, params.model.max_tokens)
            if references:
                for reference in run.reference_seeds():
                    run.train(reference, cohort, request, accelerator)
                data = run.references(cohort).teach(data, cohort)
            work = len(data.retain) * params.training.epochs
            data, stay = withhold(data, settings.withheld, run.original_seed)
            cases.append(Case(name, original.model, data, stay, run.original_seed, work))
    return cases


def withhold(data: UnlearningData, share: float, seed: int) -> tuple[UnlearningData, Examples]:
    """The data without a share of the retained patients, and the records of those, D_s."""
    patients = np.unique(data.retain.patients.numpy())
    count = max(1, round(share * len(patients)))
    chosen = np.random.default_rng([seed, 23]).choice(patients, size=count, replace=False)
    away = np.isin(data.retain.patients.numpy(), chosen)
    return replace(data, retain=data.retain.select(np.flatnonzero(~away))), data.retain.select(np.flatnonzero(away))


@dataclass(frozen=True)
class Seen:
    """What a model says of D_f, D_v and D_s: all that the rule looks at. stayers: how many records D_r has in all."""

    forget: Predictions
    validation: Predictions
    stay: Predictions
    stayers: int

    @classmethod
    def by(cls, model: ImageTextModel, case: Case, accelerator: Accelerator) -> Seen:
        """One pass."""
        sets = (case.data.forget, case.data.validation, case.stay)
        return cls(*(predict(model, each, accelerator) for each in sets), len(case.data.retain) + len(case.stay))


def score_terms(original: Seen, unlearned: Seen) -> dict[str, float]:
    """The seven terms, each 0 at best; the score of a trial is their mean.

    Forgotten patients should look like validation patients:
    - member_calls: the paper's attack, an SVC that learns from F_ul's losses what members (D_s) and strangers (D_v)
      look like; the share of D_f that it calls members, against the share of strangers that it does on F_og.
    - attack: ROC AUC of D_f's losses against D_v's, off .5, averaged over both towers and the fused prediction.
    - forget_auc, forget_f1: AUC and macro-F1 on D_f, against those on D_v.
    The model should stay as useful as it was, and those who stay as well known as they were:
    - lost_auc, lost_f1: what F_ul lost on D_v against F_og; a gain counts nothing.
    - stay: what was lost of the ROC AUC of D_s's losses against D_v's, averaged like `attack`.
    """
    auc = {name: mean_auc(p.labels, p.probabilities("fused")) for name, p in _three(original, unlearned)}
    f1 = {name: macro_f1(p.labels, p.probabilities("fused")) for name, p in _three(original, unlearned)}
    attacks = _loss_auc(unlearned.forget, unlearned.validation)
    known = _loss_auc(original.stay, original.validation) - _loss_auc(unlearned.stay, unlearned.validation)
    return {
        "member_calls": abs(_calls(unlearned, unlearned.forget) - strangers_called(original)),
        "attack": float(np.abs(attacks - 0.5).mean()),
        "forget_auc": abs(auc["forget"] - auc["validation"]),
        "forget_f1": abs(f1["forget"] - f1["validation"]),
        "lost_auc": max(0.0, auc["before"] - auc["validation"]),
        "lost_f1": max(0.0, f1["before"] - f1["validation"]),
        "stay": float(np.maximum(known, 0).mean()),
    }


def strangers_called(seen: Seen) -> float:
    """The share of D_v that the attack calls members, each half of its patients judged by the attack that learned from
    the other half."""
    half = seen.validation.patients % 2 == 0
    if half.all() or not half.any():
        half = np.arange(len(half)) % 2 == 0
    called = [
        _calls(replace(seen, validation=seen.validation.select(~part)), seen.validation.select(part)) * part.mean()
        for part in (half, ~half)
    ]
    return float(sum(called))


def _calls(seen: Seen, judged: Predictions) -> float:
    """Share of some records that an SVC trained on D_s = 1 against D_v = 0 calls members. D_s counts as if all of D_r
    were there, as the paper's attack has it."""
    from sklearn.svm import SVC

    losses = np.concatenate([seen.stay.cross_entropy("fused"), seen.validation.cross_entropy("fused")])
    truth = np.repeat([1, 0], [len(seen.stay), len(seen.validation)])
    weight = {1: seen.stayers / len(seen.stay), 0: 1.0}
    attack = SVC(C=3, kernel="rbf", gamma="auto", class_weight=weight).fit(losses[:, None], truth)
    return float(attack.predict(judged.cross_entropy("fused")[:, None]).mean())


def _loss_auc(members: Predictions, strangers: Predictions) -> np.ndarray:
    """ROC AUC of the losses of members against strangers by tower and fused (3)."""
    return np.array([binary_auc(-members.cross_entropy(t), -strangers.cross_entropy(t)) for t in members.towers])


def _three(original: Seen, unlearned: Seen) -> tuple[tuple[str, Predictions], ...]:
    return (
        ("before", original.validation),
        ("validation", unlearned.validation),
        ("forget", unlearned.forget),
    )


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any]:
    """A method's SEARCH, drawn by an Optuna trial."""
    values = {}
    for name, choice in space.items():
        if isinstance(choice, OneOf):
            values[name] = trial.suggest_categorical(name, choice.values)
        elif isinstance(choice, (LogUniform, Uniform)):
            log = isinstance(choice, LogUniform)
            # Three significant digits are kept: what is committed is then exactly what was tried.
            values[name] = float(f"{trial.suggest_float(name, choice.low, choice.high, log=log):.3g}")
        else:
            values[name] = trial.suggest_int(name, choice.low, choice.high)
    return values


def search(
    method: str,
    fixed: Mapping[str, Any],
    cases: Sequence[Case],
    settings: TuningConfig,
    accelerator: Accelerator,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The best settings of a method (`fixed`, such as the setting, and what the search chose) and one row a trial.

    Each trial unlearns every case in turn and is scored by the mean of `score_terms`; a trial that costs more than the
    budget in any case is dropped, and one that is worse than the median of the earlier ones so far is cut short. The
    first trial takes the module's defaults. folder: where a journal is kept, from which a search that was killed goes
    on and a finished one is read, as long as neither the code nor the cases have changed. A method without SEARCH has
    nothing to choose, and gets one trial.

    Raises RuntimeError where no trial stayed within the budget.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module = find(method)
    space = {name: choice for name, choice in module.SEARCH.items() if name not in fixed}
    before = {case.name: Seen.by(case.original, case, accelerator) for case in cases}

    def objective(trial: optuna.Trial) -> float:
        values = {**fixed, **suggest(trial, space)}
        terms: list[dict[str, float]] = []
        trial.set_user_attr("settings", json.dumps(values))
        for number, case in enumerate(cases):
            try:
                unlearned, log = _unlearn(module, values, case, accelerator)
            except FloatingPointError as error:
                trial.set_user_attr("ended", str(error))
                raise optuna.TrialPruned from None
            share = log.work / case.retraining_work
            if share > settings.budget:
                trial.set_user_attr("ended", f"costs {share:.3f} of retraining")
                raise optuna.TrialPruned
            terms.append(score_terms(before[case.name], Seen.by(unlearned, case, accelerator)) | {"share": share})
            means = pd.DataFrame(terms).mean()
            trial.set_user_attr("terms", means.to_dict())
            score = float(means.drop("share").mean())
            trial.report(score, number)
            if number + 1 < len(cases) and trial.should_prune():
                trial.set_user_attr("ended", "worse than the median")
                raise optuna.TrialPruned
        trial.set_user_attr("ended", "")
        return score

    study = optuna.create_study(
        study_name=method,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=settings.patience, n_warmup_steps=1),
        storage=_journal(folder, method, [fixed, asdict(settings), [_identity(case) for case in cases]]),
        load_if_exists=True,
    )
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    done = len([t for t in study.trials if t.state in ended])  # the others were interrupted
    if done == 0:
        study.enqueue_trial(_defaults(module, fixed, space))
    for number in tqdm(range(done, settings.trials if space else 1), desc=method, unit="trial", disable=not progress):
        # A sampler a trial: a search that was killed and goes on draws what it would have drawn.
        seed = 1000 * settings.seed + number
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.patience)
        study.optimize(objective, n_trials=1)
    finished = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if not finished:
        raise RuntimeError(f"tuning {method}: no trial stayed within {settings.budget} of retraining")
    best = min(finished, key=lambda t: t.value)
    return json.loads(best.user_attrs["settings"]), _table(study.trials, best.number)


def _unlearn(
    module, values: Mapping[str, Any], case: Case, accelerator: Accelerator
) -> tuple[ImageTextModel, UnlearningLog]:
    return module.unlearn(
        case.original,
        case.data,
        build(module.Config, values, "unlearning"),
        seed=case.seed,
        accelerator=accelerator,
        progress=False,
    )


def _defaults(module, fixed: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """The module's default settings as far as the search may choose them, moved into its range."""
    defaults = module.Config(**fixed)
    values = {}
    for name, choice in space.items():
        value = getattr(defaults, name)
        if isinstance(choice, OneOf):
            values[name] = value if value in choice.values else choice.values[0]
        else:
            values[name] = min(max(value, choice.low), choice.high)
    return values


def _identity(case: Case) -> list:
    weights = hashlib.sha256()
    for model in (case.original, *(reference.model for reference in case.data.references)):
        for name, tensor in sorted(model.state_dict().items()):
            weights.update(name.encode() + tensor.cpu().numpy().tobytes())
    return [case.name, case.seed, weights.hexdigest(), case.data.forget.rows.tolist()]


def _journal(folder: Path | None, method: str, identity: list) -> JournalStorage | None:
    if folder is None:
        return None
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    code = code_fingerprint("tuning", f"unlearning.{method}")
    name = f"search-{sha256_of_text(json.dumps([code, identity]))[:12]}.journal"
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(folder / name)))


def tuning_folder(profile: str | Path, folder: str | Path | None = None) -> Path:
    """Where the tuning of a profile goes: runs/tuning/<profile>, or a folder (relative to the project)."""
    from forget_mi.profiles import ROOT

    return ROOT / (folder or f"runs/tuning/{Path(profile).stem}")


def save_search(folder: Path, best: Mapping[str, Any], trials: pd.DataFrame) -> None:
    """Write trials.csv, settings.yaml and, last, outcome.json."""
    write_text(folder / "trials.csv", trials.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "settings.yaml", yaml.safe_dump(dict(best), sort_keys=False))
    write_text(folder / "outcome.json", json.dumps({"ok": True, "settings": dict(best)}, indent=2) + "\n")


def _table(trials: Sequence[optuna.trial.FrozenTrial], best: int) -> pd.DataFrame:
    rows = []
    for trial in trials:
        score = trial.value if trial.value is not None and trial.user_attrs.get("ended") == "" else float("nan")
        row = {"trial": trial.number, "chosen": trial.number == best, "score": score}
        row |= {"ended": trial.user_attrs.get("ended", "interrupted")} | trial.user_attrs.get("terms", {})
        rows.append(row | json.loads(trial.user_attrs.get("settings", "{}")))
    return pd.DataFrame(rows)
