"""Approaches at equal budgets, and what helps: one change at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from forget_mi.runs import Run, load_model
from forget_mi.studies.study import Study, UnlearningResult, approach_settings, train_study
from forget_mi.unlearning import parse_approach


def within_budgets(
    study: Study, approach: str, settings: Any, budgets: Sequence[float]
) -> dict[float, UnlearningResult | None]:
    """The approach with as many epochs as each share of retraining's work allows, its stop rule
    off; None where not even one does. Two short runs say what an epoch costs. The references take
    no part: this is about the model."""
    method = parse_approach(approach)[0]
    long = {"stop": "never"} if getattr(settings, "stop", "never") != "never" else {}
    if not hasattr(settings, "epochs"):
        found = study.forget(method, settings)
        return {
            budget: found if found.work <= budget * study.retraining_work else None
            for budget in budgets
        }

    def run(epochs: int) -> UnlearningResult:
        return study.forget(method, replace(settings, epochs=epochs, **long), alone=True)

    one, two = run(1).work, run(2).work
    affordable = {
        b: 1 + math.floor((b * study.retraining_work - one) / max(two - one, 1e-9)) for b in budgets
    }
    return {budget: run(epochs) if epochs >= 1 else None for budget, epochs in affordable.items()}


def frontier(
    study: Study, tuned: str | None, approaches: Sequence[str], budgets: Sequence[float]
) -> pd.DataFrame:
    """A row an approach and budget: the columns of `Study.row`, and budget."""
    rows = [{**line, "budget": np.nan} for line in study.baseline_rows()]
    for approach in approaches:
        settings = approach_settings(approach, tuned)
        for budget, found in within_budgets(study, approach, settings, budgets).items():
            if found is not None:
                rows.append(study.row(approach, found, budget=budget))
    return pd.DataFrame(rows)


ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "constant rate": {"schedule": "constant"},
    "batch norm frozen": {"batch_norm": "frozen"},
    "half the rate": {"learning_rate": 0.5},
    "twice the rate": {"learning_rate": 2.0},
    "small batches": {"batch_size": 4},
    "large batches": {"batch_size": 16},
    "half the retained records": {"retain_batch": 0.5},
    "twice the retained records": {"retain_batch": 2.0},
    "without labels": {"labels": 0.0},
    "without the squared difference": {"squared": 0.0},
    "without the embeddings": {"embeddings": 0.0},
    "embeddings three times": {"embeddings": 3.0},
    "twice the rate and retained records": {"learning_rate": 2.0, "retain_batch": 2.0},
    "half the rate and retained records": {"learning_rate": 0.5, "retain_batch": 0.5},
    "half the epochs": {"epochs": 0.5},
    "twice the epochs": {"epochs": 2.0},
}


MORE_FOLDS = 4


RELATIVE_CHANGES = ("learning_rate", "retain_batch", "epochs")


def apply_change(settings: Any, change: Mapping[str, Any]) -> Any:
    """Settings with a change of ABLATIONS; those of RELATIVE_CHANGES multiply."""
    values = {}
    for name, value in change.items():
        now = getattr(settings, name)
        product = now * value if name in RELATIVE_CHANGES else value
        values[name] = (
            max(1, round(product))
            if isinstance(now, int) and not isinstance(now, bool)
            else product
        )
    return replace(settings, **values)


def ablation(study: Study, tuned: str | None) -> pd.DataFrame:
    """A row a change of ABLATIONS to held-out targets, one with reference models on MORE_FOLDS
    folds, and one a retrained model: the columns of `Study.row`, CAME_BACK, and change."""
    settings = approach_settings("held_out_targets", tuned)
    tries = [(name, study, apply_change(settings, change)) for name, change in ABLATIONS.items()]
    tries.append((f"{MORE_FOLDS} folds", with_folds(study, MORE_FOLDS), settings))
    rows = []
    for name, each, how in tries:
        found = each.forget("held_out_targets", how, alone=True)
        row = each.row("held_out_targets", found, change=name) | each.came_back(found.model)
        rows.append(row | {"one_off_trainings": each.one_off_trainings})
    for line, name in zip(
        study.baseline_rows()[1:], study.run.retrained_seeds(), strict=True
    ):  # what is to be reached
        model = load_model(study.run, name, study.cohort, finished=False)
        rows.append(line | {"change": "retrained"} | study.came_back(model))
    return pd.DataFrame(rows)


def with_folds(study: Study, folds: int) -> Study:
    """The study with reference models on so many folds of the patients, in a run folder beside its
    own; they are trained where they are not there yet."""
    run, params = study.run, study.run.params
    beside = Run(
        run.folder.with_name(f"{run.folder.name}-{folds}-folds"),
        replace(params, references=replace(params.references, folds=folds)),
    )
    return train_study(beside, study.cohort, study.request)
