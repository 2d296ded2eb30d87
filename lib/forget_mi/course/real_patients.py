"""Checks of exercise 10."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from forget_mi.course.answers import (
    NotYetError,
    array,
    call,
    chosen,
    close,
    describe,
    exercise,
    number,
)


@exercise
def interval(function: Any) -> str:
    """The interval of a mean over seeds."""
    cases = [[0.031, 0.052, 0.044, 0.027, 0.061], [0.1, 0.2, 0.6]]
    found = np.array(
        [array(call(function, np.array(c), name="interval"), "the interval", (2,)) for c in cases]
    )
    normal = [_interval(c, stats.norm.ppf(0.975)) for c in cases]
    right = [_interval(c, stats.t.ppf(0.975, len(c) - 1)) for c in cases]
    close(
        found,
        right,
        "the interval",
        {
            "With so few seeds the normal quantile 1.96 is too small; Student's t knows how few "
            "they are.": normal,
            "This is where single seeds lie; divide by the root of their number for the mean.": [
                _interval(c, stats.t.ppf(0.975, len(c) - 1), root=False) for c in cases
            ],
            "The standard deviation of a sample divides by n - 1 (ddof=1).": [
                _interval(c, stats.t.ppf(0.975, len(c) - 1), ddof=0) for c in cases
            ],
            "This quantile leaves 5 % on one side; an interval has two.": [
                _interval(c, stats.t.ppf(0.95, len(c) - 1)) for c in cases
            ],
        },
    )
    return "Five seeds pay 2.8 standard errors where a hundred pay 2."


def _interval(values: Any, quantile: float, ddof: int = 1, root: bool = True) -> list[float]:
    values = np.asarray(values, dtype=float)
    half = quantile * values.std(ddof=ddof) / (np.sqrt(len(values)) if root else 1)
    return [values.mean() - half, values.mean() + half]


@exercise
def most(function: Any) -> str:
    """What a search that finds nobody rules out."""
    cases = [5, 37, 300]
    found = np.array([number(call(function, n, name="most"), "the share") for n in cases])
    n = np.array(cases)
    close(
        found,
        1 - 0.05 ** (1 / n),
        "the share",
        {
            "Three by n is the rule of thumb, good for many patients; five are few.": 3 / n,
            "This is the chance that a patient is left out, not that one is found.": 0.05
            ** (1 / n),
            "All n have to be missed: the chances multiply.": np.full(3, 0.95),
            "The chance of missing all n is (1 - share) to the power n, set that to 5 %.": 0.05 / n,
        },
    )
    return "Nobody found of five patients says little; of three hundred, one in a hundred at most."


@exercise
def close_enough(answer: Any, table: pd.DataFrame) -> str:
    """The methods that meet three limits at once."""
    try:
        found = {str(name) for name in answer}
    except TypeError:
        raise NotYetError(f"A set of names is asked for; this is {describe(answer)}.") from None
    rows = table.set_index("method").drop("original")
    gold = rows.loc["retrained"]
    rows = rows.drop("retrained")
    near = rows.mean_gap <= gold.mean_gap + 0.06
    useful = rows.test_auc >= gold.test_auc - 0.03
    attack = rows.strongest_patient_auc - gold.strongest_patient_auc
    hidden = attack.abs() <= 0.05
    right = set(rows.index[near & useful & hidden])
    if unknown := found - set(rows.index):
        raise NotYetError(f"{sorted(unknown)[0]!r} is no method of this table.")
    for wrong, hint in (
        (near & useful, "The attack is left out: a small gap does not say that nobody is found."),
        (near & hidden, "The strangers are left out: look at the test AUC."),
        (useful & hidden, "The gap is left out."),
        (near & useful & (attack <= 0.05), "Within .05 on either side: who is found less than a "
         "stranger is marked as well."),
    ):  # fmt: skip
        if found == set(rows.index[wrong]) != right:
            raise NotYetError(hint)
    if found != right:
        odd = sorted(found ^ right)[0]
        raise NotYetError(
            f"Look at {odd} again: it {'misses a limit' if odd in found else 'meets all three'}."
        )
    passing = int((near & useful).sum())
    return f"{len(right)} of {len(rows)}; by gap and test AUC alone {passing} would pass."


@exercise
def tower(answer: Any, table: pd.DataFrame) -> str:
    """Where more is left after the default."""
    rows = table.set_index("method")
    left = {
        name: rows[f"probe_auc_{name}"]["held_out_targets"] - rows[f"probe_auc_{name}"]["retrained"]
        for name in ("image", "text")
    }
    right = max(left, key=left.get)
    other = min(left, key=left.get)
    chosen(
        answer,
        right,
        {other: f"There the probe finds {left[other]:+.2f} more than on retrained models."},
    )
    return f"The probe finds {left[right]:+.2f} more there than on retrained models."


@exercise
def reach(answer: Any) -> str:
    """What the study says about a hospital."""
    chosen(
        answer,
        "audit",
        {
            "proof": "These are teaching cases, at 64 pixels, of five groups; a ward is none of "
            "that.",
            "nothing": "The same settings held on patients that chose nothing: it says more than "
            "that.",
            "pretrained": "Size is not the question; who is in the data is.",
        },
    )
    return "A study says where to begin. Your own audit says where you are."
