"""Choosing hyper-parameters: one rule for every method, on validation and forget data alone.

A real user has no retrained model, and the test set is there to judge. What is known without them:
patients who certainly were never trained on (D_v), and that forgotten patients should look like
them, also once the model has been trained on; and that those who stay should look as they did. The
latter is measured on a tenth of D_r: D_s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd
import yaml
from accelerate import Accelerator
from tqdm.auto import tqdm

from forget_mi.config import build
from forget_mi.errors import import_extra
from forget_mi.files import sha256_of_text, write_text
from forget_mi.models import ImageTextModel, load_checkpoint
from forget_mi.runs import TuningConfig, load_references, train_model, unlearning_values
from forget_mi.source_code import code_fingerprint
from forget_mi.studies.tuning_score import (
    TuningCase,
    TuningPredictions,
    score_terms,
    total_score,
    watched,
    with_training_on,
)
from forget_mi.training import TrainingConfig
from forget_mi.unlearning import (
    LogUniform,
    OneOf,
    SearchSpace,
    StepConfig,
    Uniform,
    UnlearningData,
    UnlearningLog,
    get_method,
    pretrained_networks,
)

if TYPE_CHECKING:
    import optuna
    from optuna.storages import JournalStorage


def tuning_cases(
    profile: str | Path,
    settings: TuningConfig,
    accelerator: Accelerator,
    overrides: Mapping[str, Any] | None = None,
    *,
    folder: Path,
    references: bool = False,
) -> list[TuningCase]:
    """The tuning cases of a profile. Their original models are trained once, in run folders below
    `folder`; so are the reference models, where the method that is tuned needs them."""
    # runs needs the profiles, and they need TuningConfig.
    from forget_mi.data import make_request, split_by_patient
    from forget_mi.runs import draw_salt, open_run

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
            train_model(run, "original", cohort, request, accelerator)
            original = load_checkpoint(
                run.stage("02_train") / "original", fingerprint=cohort.fingerprint
            )
            data = UnlearningData.from_cohort(
                cohort, request, original.tokenizer, params.model.max_tokens
            )
            if references:
                for reference in run.reference_seeds():
                    train_model(run, reference, cohort, request, accelerator)
                data = load_references(run, cohort).teach(data, cohort)
            work = len(data.retain) * params.training.epochs
            stay = watched(data, settings.watched, run.original_seed)
            how = (run.original_seed, work, params.training)
            cases.append(TuningCase(name, original.model, data, stay, *how))
    return cases


# How the models were trained for which the ranges of SEARCH are written.
RANGES_ARE_FOR = TrainingConfig(epochs=30, learning_rate=1e-3)
PASSES = ("epochs", "max_epochs")


def space_of(method: str, fixed: Mapping[str, Any], case: TuningCase) -> SearchSpace:
    """What a search for a method chooses on a case: the module's SEARCH without what is fixed.

    Ranges of rates and passes go in proportion to those that the case's original was trained with:
    a pretrained tower is fine-tuned in a few passes at a lower rate, and unlearned so. Where
    towers were pretrained, `rewind` is searched as well, of every method that takes steps.
    """
    module = get_method(method)
    space = {
        name: type(choice)(*_in_proportion(name, choice, case.training))
        for name, choice in module.SEARCH.items()
        if name not in fixed
    }
    if issubclass(module.Config, StepConfig) and space and pretrained_networks(case.original):
        space["rewind"] = OneOf((0.0, 0.3, 0.5, 0.7))
    return space


def _in_proportion(name: str, values: Sequence, training: TrainingConfig | None) -> list:
    """Values of a setting, as they are for RANGES_ARE_FOR, for models trained in another way."""
    if training is None:
        return list(values)
    if values and isinstance(values[0], tuple):  # of OneOf
        return [tuple(dict.fromkeys(_in_proportion(name, values[0], training)))]
    if name == "learning_rate":
        ratio = training.learning_rate / RANGES_ARE_FOR.learning_rate
        return [value * ratio for value in values]
    if name in PASSES:
        whole = RANGES_ARE_FOR.epochs
        return [-(-value * training.epochs // whole) for value in values]  # rounded up
    return list(values)


def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any]:
    """A method's SEARCH, drawn by an Optuna trial."""
    values = {}
    for name, choice in space.items():
        if isinstance(choice, OneOf):
            values[name] = trial.suggest_categorical(name, choice.values)
        elif isinstance(choice, (LogUniform, Uniform)):
            log = isinstance(choice, LogUniform)
            # Three significant digits are kept: what is committed is then exactly what was tried.
            values[name] = float(
                f"{trial.suggest_float(name, choice.low, choice.high, log=log):.3g}"
            )
        else:
            values[name] = trial.suggest_int(name, choice.low, choice.high)
    return values


class Trial:
    """The objective of a search: unlearns every case with the settings that a trial suggests."""

    def __init__(
        self,
        module: Any,
        fixed: Mapping[str, Any],
        space: SearchSpace,
        cases: Sequence[TuningCase],
        budget: float,
        accelerator: Accelerator,
    ):
        self.module, self.fixed, self.space, self.cases = module, fixed, space, cases
        self.budget, self.accelerator = budget, accelerator
        self.before = {
            case.name: TuningPredictions.of_model(case.original, case, accelerator)
            for case in cases
        }

    def __call__(self, trial: optuna.Trial) -> float:
        """The mean score over the cases. Raises optuna.TrialPruned, with the reason in the trial's
        attribute 'ended'."""
        values = {**self.fixed, **suggest(trial, self.space)}
        terms: list[dict[str, float]] = []
        trial.set_user_attr("settings", json.dumps(values))
        for number, case in enumerate(self.cases):
            try:
                unlearned, log = unlearn_case(self.module, values, case, self.accelerator)
                share = log.work / case.retraining_work
                if share > self.budget:
                    self._prune(trial, f"costs {share:.3f} of retraining")
                found = case_terms(unlearned, case, self.before[case.name], self.accelerator)
            except FloatingPointError as error:
                self._prune(trial, str(error))
            terms.append(found | {"share": share})
            means = pd.DataFrame(terms).mean()
            trial.set_user_attr("terms", means.to_dict())
            score = total_score(means.drop("share").to_dict())
            trial.report(score, number)
            if number + 1 < len(self.cases) and trial.should_prune():
                self._prune(trial, "worse than the median")
        trial.set_user_attr("ended", "")
        return score

    @staticmethod
    def _prune(trial: optuna.Trial, reason: str) -> NoReturn:
        import optuna

        trial.set_user_attr("ended", reason)
        raise optuna.TrialPruned from None


def search(
    method: str,
    fixed: Mapping[str, Any],
    cases: Sequence[TuningCase],
    settings: TuningConfig,
    accelerator: Accelerator,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The best settings of a method (`fixed`, such as the setting, and what the search chose) and
    one row a trial.

    Each trial unlearns every case in turn and is scored by `total_score`; a trial that
    costs more than the budget in any case is dropped, and one that is worse than the median of the
    earlier ones so far is cut short. The first trial takes the module's defaults, the second what
    settings.start names. folder: where a journal is kept, from which a search that was killed goes
    on and a finished one is read, as long as neither the code nor the cases have changed. A method
    without SEARCH has nothing to choose, and gets one trial.

    Raises RuntimeError where no trial stayed within the budget.
    """
    optuna = import_extra("optuna", "studies")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module = get_method(method)
    space = space_of(method, fixed, cases[0])
    trial = Trial(module, fixed, space, cases, settings.budget, accelerator)
    study = optuna.create_study(
        study_name=method,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=settings.patience, n_warmup_steps=1),
        storage=_journal(
            folder, method, [fixed, asdict(settings), [_identity(case) for case in cases]]
        ),
        load_if_exists=True,
    )
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    done = len([t for t in study.trials if t.state in ended])  # the others were interrupted
    if done == 0:
        for values in _first_settings(method, fixed, settings.start, cases[0].training):
            study.enqueue_trial(_within(space, values))
    numbers = range(done, settings.trials if space else 1)
    for number in tqdm(numbers, desc=method, unit="trial", disable=not progress):
        # A sampler a trial: a search that was killed and goes on draws what it would have drawn.
        seed = 1000 * settings.seed + number
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=settings.patience)
        study.optimize(trial, n_trials=1)
    finished = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if not finished:
        raise RuntimeError(
            f"tuning {method}: no trial stayed within {settings.budget} of retraining"
        )
    best = min(finished, key=lambda t: t.value)
    return json.loads(best.user_attrs["settings"]), _table(study.trials, best.number)


def unlearn_case(
    module: Any, values: Mapping[str, Any], case: TuningCase, accelerator: Accelerator
) -> tuple[ImageTextModel, UnlearningLog]:
    """A tuning case unlearned by a method's module with some settings."""
    return module.unlearn(
        case.original,
        case.data,
        build(module.Config, values, "unlearning"),
        seed=case.seed,
        accelerator=accelerator,
        progress=False,
    )


def case_terms(
    model: ImageTextModel, case: TuningCase, before: TuningPredictions, accelerator: Accelerator
) -> dict[str, float]:
    """The terms of the rule (`score_terms`) for a model of a tuning case, what comes back when it
    is trained on among them. before: F_og's predictions. Raises FloatingPointError where the
    model's outputs are not finite."""
    after = TuningPredictions.of_model(model, case, accelerator)
    return score_terms(before, with_training_on(after, model, case, accelerator))


def _first_settings(
    method: str, fixed: Mapping[str, Any], start: str | None, training: TrainingConfig | None
) -> Iterator[dict[str, Any]]:
    """What the first trials take: the defaults, rates and passes in proportion, and what
    params/tuned/<start>.yaml has of the approach (nothing where it has none)."""
    defaults = asdict(get_method(method).Config(**fixed))
    for name in ("learning_rate", *PASSES):
        if name in defaults:
            (defaults[name],) = _in_proportion(name, [defaults[name]], training)
    yield defaults
    if start is not None:
        _, known = unlearning_values({"method": method, **fixed, "tuned": start})
        if known.keys() - fixed.keys():
            yield defaults | known


def _within(space: SearchSpace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as far as the search may choose them, moved into its range."""
    values = {}
    for name, choice in space.items():
        value = settings[name]
        if isinstance(choice, OneOf):
            values[name] = value if value in choice.values else choice.values[0]
        else:
            values[name] = min(max(value, choice.low), choice.high)
    return values


def _identity(case: TuningCase) -> list:
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

    code = code_fingerprint("studies.tuning", f"unlearning.{method}")
    name = f"search-{sha256_of_text(json.dumps([code, identity]))[:12]}.journal"
    folder.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(folder / name)))


def tuning_folder(profile: str | Path, folder: str | Path | None = None) -> Path:
    """Where the tuning of a profile goes: runs/tuning/<profile>, or a folder (relative to the
    project)."""
    from forget_mi.runs import ROOT

    return ROOT / (folder or f"runs/tuning/{Path(profile).stem}")


def save_search(folder: Path, best: Mapping[str, Any], trials: pd.DataFrame) -> None:
    """Write trials.csv, settings.yaml and, last, outcome.json."""
    write_text(folder / "trials.csv", trials.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "settings.yaml", yaml.safe_dump(dict(best), sort_keys=False))
    write_text(
        folder / "outcome.json", json.dumps({"ok": True, "settings": dict(best)}, indent=2) + "\n"
    )


def _table(trials: Sequence[optuna.trial.FrozenTrial], best: int) -> pd.DataFrame:
    rows = []
    for trial in trials:
        score = (
            trial.value
            if trial.value is not None and trial.user_attrs.get("ended") == ""
            else float("nan")
        )
        row = {"trial": trial.number, "chosen": trial.number == best, "score": score}
        row |= {"ended": trial.user_attrs.get("ended", "interrupted")} | trial.user_attrs.get(
            "terms", {}
        )
        rows.append(row | json.loads(trial.user_attrs.get("settings", "{}")))
    return pd.DataFrame(rows)
