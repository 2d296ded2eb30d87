"""P-values of one against many: by counting, and beyond what can be counted."""

from __future__ import annotations

import math

import numpy as np

# Beyond this quantile of the strangers a p-value is read off an exponential tail.
TAIL = 0.9


# A p-value is read off the tail at most so many times below what counting strangers can reach.
EXTRAPOLATION = 100


def upper_p(values: np.ndarray, null: np.ndarray, *, among_others: bool = False) -> np.ndarray:
    """One-sided p-values of some values (any shape) against what strangers have, null (draws,
    strangers): how likely is a stranger's value to be as large? among_others: the values are the
    null's own, (draws, strangers), and each stranger is compared with the others.

    Up to the strangers' quantile TAIL by counting, (1 + strangers at or above) / (1 + strangers).
    Beyond it strangers are too few to count: there, as if the excesses over that quantile were
    exponential with a mean that k = (1 - TAIL) * strangers of them tell,

        p(s) = p(t) * (1 + (s - t) / (k * mean excess)) ** -k,

    the chance that one more excess is as large, and not below 1 / EXTRAPOLATION of what counting
    can reach.
    """
    draws, strangers = null.shape
    ordered = np.sort(null, axis=None)
    above = (len(ordered) - np.searchsorted(ordered, values, "left")) / draws
    others = strangers
    if among_others and strangers > 1:
        rank = draws - null.argsort(0, kind="stable").argsort(0, kind="stable")
        above, others = above - rank / draws, strangers - 1
    counted = np.minimum((1 + above) / (1 + others), 1.0)
    t = ordered[min(math.ceil(TAIL * len(ordered)), len(ordered) - 1)]
    excess = ordered[ordered > t] - t
    if len(excess) == 0:
        return counted
    k = max((1 - TAIL) * strangers, 1.0)
    at_t = (1 + len(excess) / draws) / (1 + others)
    with np.errstate(invalid="ignore"):
        far = at_t * (1 + np.maximum(values - t, 0) / (k * excess.mean())) ** -k
    return np.where(values > t, np.maximum(far, 1 / (1 + others) / EXTRAPOLATION), counted)


def hommel(p: np.ndarray) -> np.ndarray:
    """Hommel's adjusted p-values (Hommel, 1988), the closed test with Simes' inequality: the chance
    that any at most `level` is a false alarm is at most `level`. Whoever Holm's correction calls is
    called, and more where several are small. NaN stays NaN and does not count.

    Simes' inequality holds here: p-values set against the same strangers are positively dependent
    (Bates et al., Annals of Statistics 2023, arXiv 2104.08279).
    """
    p = np.asarray(p, float)
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there])]
    ordered, n = p[order], len(order)
    found = ordered.copy()
    # Of all intersections of m hypotheses that one is in, Simes' p-value is largest for those of
    # the largest p-values.
    for m in range(n, 1, -1):
        last = np.arange(n - m + 1, n)
        simes = (m * ordered[last] / np.arange(2, m + 1)).min()
        first = np.arange(n - m + 1)
        found[first] = np.maximum(found[first], np.minimum(m * ordered[first], simes))
        found[last] = np.maximum(found[last], found[n - m])
    result = np.full(len(p), np.nan)
    result[order] = np.minimum(found, 1.0)
    return result


def shuffled_p(mine: np.ndarray, theirs: np.ndarray, seed: int, shuffles: int = 2000) -> float:
    """One-sided permutation p-value of 'mine are no larger on average'."""
    together, rng = np.concatenate([mine, theirs]), np.random.default_rng([seed, 83])
    order = rng.random((shuffles, len(together))).argsort(1)[:, : len(mine)]
    means = together[order].mean(1)
    return float((1 + (means >= mine.mean() - 1e-12).sum()) / (1 + shuffles))
