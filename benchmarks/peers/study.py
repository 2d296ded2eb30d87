"""The model, the requests and the judge that peers and we share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from method import PeerMethod

from forget_mi.data import make_request, split_by_patient
from forget_mi.files import write_text
from forget_mi.runs import load_profile, open_run
from forget_mi.source_code import code_fingerprint
from forget_mi.studies import open_sweep
from forget_mi.studies.beyond import request_run
from forget_mi.studies.study import Study, UnlearningResult, train_study
from forget_mi.studies.tuning import Trial, tuning_cases
from forget_mi.training import make_accelerator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "runs" / "peers"
PROFILE = "demo"
FRACTION = 0.1
SEEDS = (0, 1, 2)
TRIALS = 6
COLUMNS = ("mean_gap", "lira_auc", "lira_patient_auc", "patients_found_at_5pct", "test_auc")
COSTS = ("seconds", "share_of_retraining")


def overrides(towers: str) -> dict[str, Any]:
    """What a model with these towers changes of the profile. Its shadow models are trained here."""
    own = {"model.towers": towers, "shadows.missing": "train"}
    return {} if towers == "both" else own


@cache
def open_study(towers: str, seed: int) -> Study:
    """F_og, the retrained models and the judges of a seed: those of the sweep where both towers are
    there, else models of its own, trained the first time."""
    if towers == "both":
        return request_run(open_sweep(PROFILE), seed, FRACTION)
    changes = {**overrides(towers), "seed": seed, "request.fraction": FRACTION}
    run = open_run(PROFILE, FOLDER / towers / f"seed{seed}", changes)
    cohort = split_by_patient(run.source(), run.params.split)
    return train_study(run, cohort, make_request(cohort, run.params.request))


def chosen(method: PeerMethod, towers: str) -> dict[str, Any] | None:
    """What our tuning rule chooses for a peer's method from TRIALS trials, the first with the
    peer's published settings, on the tuning seeds' requests of this size and within the budget of
    `make tune`; None where no trial stayed within it. Kept as long as neither the rule's code nor
    the adapter changes."""
    import optuna

    here = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    made_of = [code_fingerprint("studies.tuning"), TRIALS, hashlib.sha256(here).hexdigest()]
    kept = FOLDER / "tuning" / f"{method.call.func.__module__}-{method.name}-{towers}.json"
    if kept.is_file() and (found := json.loads(kept.read_text()))["made_of"] == made_of:
        return found["settings"]
    params = load_profile(PROFILE, overrides(towers))
    accelerator = make_accelerator(params.device)
    folder = ROOT / "runs" / "tuning" / (PROFILE if towers == "both" else f"peers-{towers}")
    asked = replace(params.tuning, fractions=(FRACTION,))
    cases = tuning_cases(PROFILE, asked, accelerator, overrides(towers), folder=folder)
    trial = Trial(method, {}, method.SEARCH, cases, asked.budget, accelerator)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=asked.seed, n_startup_trials=3),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    )
    search.enqueue_trial({n: v for n, v in method.defaults.items() if n in method.SEARCH})
    search.optimize(trial, n_trials=TRIALS)
    complete = [t for t in search.trials if t.state == optuna.trial.TrialState.COMPLETE]
    best = min(complete, key=lambda t: t.value, default=None)
    settings = None if best is None else json.loads(best.user_attrs["settings"])
    write_text(kept, json.dumps({"made_of": made_of, "settings": settings}, indent=1) + "\n")
    return settings


def judged(
    study: Study, name: str, towers: str, how: str, forget: Callable[[], UnlearningResult]
) -> dict[str, Any]:
    """A row of the table: the measures of what `forget` gives, what it cost, and the largest
    resident memory of the process meanwhile (libraries included). A model that blew up, or code
    that stops with an error, has its reason in `ended` and no measures."""
    about = {"method": name, "towers": towers, "settings": how, "seed": study.run.params.seed}
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    try:
        found = forget()
    except Exception as error:  # whatever a peer's code raises is a finding about it
        return about | {"ended": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    row = study.row(name, found)
    kept = {column: row[column] for column in (*COLUMNS, *COSTS)}
    return about | kept | {"peak_memory_mb": int(peak[1]) / 2**10, "ended": ""}


def by_peer(study: Study, method: PeerMethod, settings: Any) -> Callable[[], UnlearningResult]:
    """A peer's method on a study's request."""

    def forget() -> UnlearningResult:
        how = {"seed": study.run.original_seed, "accelerator": study.accelerator}
        model, log = method.unlearn(study.original.model, study.data, settings, **how)
        return UnlearningResult(model, {}, log.seconds, log.work)

    return forget
