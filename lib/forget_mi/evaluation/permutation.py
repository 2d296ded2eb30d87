"""Permutation tests by patient: is F_ul's treatment of D_f that of F_re?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from forget_mi.attacks import Evidence, margins
from forget_mi.evaluation.roc import by_patient
from forget_mi.training import Predictions, Tower


def sign_flip_p(differences: np.ndarray, *, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided permutation p-value of 'these paired differences (n) are as likely with the other
    sign'.

    All 2^n signs where that is at most `flips`, else `flips` at random (the observed one counted
    among them, so that p is never 0; Phipson & Smyth, 2010). NaN where there is no difference to
    look at.
    """
    differences = np.asarray(differences, float)
    n = len(differences)
    if n == 0:
        return float("nan")
    observed = abs(differences.mean())
    if 2**n <= flips:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ differences) / n >= observed - 1e-12).mean())
    signs = np.random.default_rng([seed, 41]).choice([-1, 1], size=(flips, n))
    return float((1 + (np.abs(signs @ differences) / n >= observed - 1e-12).sum()) / (1 + flips))


def label_shuffle_p(a: np.ndarray, b: np.ndarray, *, shuffles: int = 5_000, seed: int = 0) -> float:
    """Two-sided permutation p-value of 'a (n) and b (m) are drawn alike', by the difference of
    their means; NaN where either is empty."""
    n, m = len(a), len(b)
    if n == 0 or m == 0:
        return float("nan")
    rng, together = np.random.default_rng([seed, 43]), np.concatenate([a, b])
    sums = np.array([rng.permutation(together)[:n].sum() for _ in range(shuffles)])
    extreme = np.abs(sums / n - (together.sum() - sums) / m) >= abs(np.mean(a) - np.mean(b)) - 1e-12
    return float((1 + extreme.sum()) / (1 + shuffles))


def permutation_table(
    model: Evidence, references: Mapping[str, Evidence], name: str
) -> pd.DataFrame:
    """'F_ul treats D_f as F_re does', tested by patient. A row a pair of models and tower: of the
    model with each retrained one, and of the retrained models with each other, which is the floor.

    difference: mean over the patients of D_f of (their mean margin under the first model less that
    under the second), in nats. p: by flipping the sign of each patient's difference at random.
    beyond_strangers, p_beyond: the same less what it is on D_t, by shuffling who is in D_f: a model
    that is surer of everyone treats nobody otherwise.
    """
    retrained = list(references)
    pairs = [(name, other) for other in retrained]
    pairs += [(a, b) for i, a in enumerate(retrained) for b in retrained[i + 1 :]]
    models, rows = {name: model, **references}, []
    for a, b in pairs:
        for tower in model.forget.towers:
            forget, test = (
                _by_patient_difference(getattr(models[a], side), getattr(models[b], side), tower)
                for side in ("forget", "test")
            )
            row = {
                "first": a,
                "second": b,
                "tower": tower,
                "difference": forget.mean(),
                "p": sign_flip_p(forget),
            }
            row |= {
                "beyond_strangers": forget.mean() - test.mean(),
                "p_beyond": label_shuffle_p(forget, test),
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _by_patient_difference(a: Predictions, b: Predictions, tower: Tower) -> np.ndarray:
    return by_patient(margins(a, tower) - margins(b, tower), a.patients)[0]
