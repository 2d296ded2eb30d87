"""Verdicts on averages: does the unlearned model treat the forgotten patients as a model does that
never saw them, or not?

A gap upwards means that something is remembered; a gap downwards, that the model does worse on
these patients than it would on strangers, which marks them as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from forget_mi.attacks import ATTACKS, Evidence, Scores, margins, mean_where
from forget_mi.evaluation.attack_rates import (
    LEVELS,
    BootstrapWeights,
    Key,
    Patients,
    at_level,
    patients_of,
)
from forget_mi.evaluation.roc import Roc
from forget_mi.training import Tower

UNDER, OVER, SAME = "under-forgotten", "over-forgotten", "indistinguishable at this sample size"


DISTINGUISHED, UNKNOWN = "told apart", "too few patients for an interval"


# Attacks that look for traces of unlearning, in whichever direction.
UNDIRECTED = ("u_lira",)


CHECKED = (*ATTACKS, "svc")


def verdict_checks(
    scores: Mapping[Key, Scores],
    references: Mapping[str, Mapping[Key, Scores]],
    patients: Patients,
    *,
    draws: int,
    level: float,
    seed: int,
) -> pd.DataFrame:
    """A row an attack, tower and level (sample, patient): value, the AUC of D_f against D_t;
    reference, the mean of the retrained models'; gap; low, high; verdict.

    references: the retrained models' scores by name; without any, as for an attack on unlearned
    models alone, the reference is .5, what a model that never saw the patients gets (SVC, which has
    no such value, is then left out). low, high span the gaps to each retrained model, so that what
    lies between two retrained models is never called a difference, each plus and minus z bootstrap
    standard deviations (patients drawn, the same for all models), z such that all rows together are
    right with probability `level` if nothing is different (Bonferroni).
    """
    chosen = [key for key in scores if key[0] in CHECKED and (references or key[0] in ATTACKS)]
    z = norm.ppf(1 - (1 - level) / (2 * max(len(chosen) * len(LEVELS), 1)))
    rows = []
    for kind in LEVELS:
        who = at_level(next(iter(scores.values())), patients, kind)[1]
        drawn = BootstrapWeights.sample(who, draws, seed)

        def auc(found: Scores, kind: str = kind, drawn: BootstrapWeights = drawn) -> np.ndarray:
            return Roc(*at_level(found, patients, kind)[0]).auc(*drawn)

        for key in chosen:
            mine = auc(scores[key])
            others = [auc(each[key]) for each in references.values() if key in each]
            others = others or [np.full(len(mine), 0.5)]
            rows.append(
                {"attack": key[0], "tower": key[1], "level": kind}
                | _row(mine, others, z, patients.enough)
            )
            if key[0] in UNDIRECTED and rows[-1]["verdict"] in (UNDER, OVER):
                rows[-1]["verdict"] = DISTINGUISHED if rows[-1]["verdict"] == UNDER else SAME
    return pd.DataFrame(rows)


def margin_checks(
    evidence: Evidence, references: Mapping[str, Evidence], *, draws: int, level: float, seed: int
) -> pd.DataFrame:
    """A row a tower, columns as in `verdict_checks` (attack 'margin', level 'sample'): value, the
    mean margin on D_f less that on D_t, in nats.

    Reference: the same of the retrained models; without any, of what shadow models say that never
    saw the record (each record's mean over them), where there are some.
    """
    patients, towers = patients_of(evidence), evidence.forget.towers
    drawn = BootstrapWeights.sample(patients, draws, seed)
    z = norm.ppf(1 - (1 - level) / (2 * len(towers)))

    def difference(forget: np.ndarray, test: np.ndarray) -> np.ndarray:
        return (drawn.forget @ forget) / drawn.forget.sum(1) - (drawn.test @ test) / drawn.test.sum(
            1
        )

    rows = []
    for tower in towers:
        if references:
            others = [
                difference(margins(e.forget, tower), margins(e.test, tower))
                for e in references.values()
            ]
        elif evidence.shadows is not None:
            others = [
                difference(
                    *(mean_unseen_margin(evidence, side, tower) for side in ("forget", "test"))
                )
            ]
        else:
            return pd.DataFrame()
        mine = difference(margins(evidence.forget, tower), margins(evidence.test, tower))
        about = {"attack": "margin", "tower": tower, "level": "sample"}
        rows.append(about | _row(mine, others, z, patients.enough))
    return pd.DataFrame(rows)


def mean_unseen_margin(evidence: Evidence, side: str, tower: Tower) -> np.ndarray:
    """The mean margin of each record of a set (n) under the shadow models that never saw it."""
    shadows = evidence.shadows[side]
    found = np.stack([margins(p, tower) for p in shadows.predictions])
    return mean_where(found, shadows.stranger)


def _row(mine: np.ndarray, others: Sequence[np.ndarray], z: float, enough: bool) -> dict:
    """value, reference, gap, low, high, verdict, from bootstrap draws whose first is what was
    seen."""
    gaps = [mine - other for other in others]
    halves = [z * float(np.nanstd(gap[1:], ddof=1)) for gap in gaps]
    low = min(float(gap[0]) - half for gap, half in zip(gaps, halves, strict=True))
    high = max(float(gap[0]) + half for gap, half in zip(gaps, halves, strict=True))
    reference = float(np.mean([other[0] for other in others]))
    if not enough:
        low = high = float("nan")
    verdict = UNKNOWN if np.isnan(low + high) else UNDER if low > 0 else OVER if high < 0 else SAME
    row = {"value": float(mine[0]), "reference": reference, "gap": float(mine[0]) - reference}
    return row | {"low": low, "high": high, "verdict": verdict}


def overall_verdict(table: pd.DataFrame) -> str:
    """The verdict over all checks of one model: whatever was found, under-forgotten first; else
    that nothing was, or that there are too few patients for an interval."""
    found = [name for name in (UNDER, OVER, DISTINGUISHED) if (table.verdict == name).any()]
    if found:
        return " and ".join(found)
    return UNKNOWN if len(table) == 0 or (table.verdict == UNKNOWN).all() else SAME


def verdict_basis(table: pd.DataFrame) -> str:
    """Which checks a verdict rests on, in words: 'lira (fused, text), loss (fused)'."""
    rows = table[table.verdict.isin([UNDER, OVER, DISTINGUISHED])]
    found = rows.groupby("attack", sort=False).tower.agg(
        lambda towers: ", ".join(dict.fromkeys(towers))
    )
    return ", ".join(f"{attack} ({towers})" for attack, towers in found.items())
