"""What strangers score, and those who stay, with as many records as the patient who is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from forget_mi.evaluation.p_values import upper_p

# Draws of as many records as the judged patient has, of each stranger.
DRAWS = 40


# The sides of a verdict, and the sign that makes a score of each count upwards.
SIGNS = {"remembered": 1, "pushed": -1}


class Records(NamedTuple):
    """Scores of some records under one model, higher meaning remembered: scores (looks, n), and the
    patient and the label of each record (n)."""

    scores: np.ndarray
    patients: np.ndarray
    labels: np.ndarray

    def where(self, mask: np.ndarray) -> Records:
        """Some of the records."""
        return Records(self.scores[:, mask], self.patients[mask], self.labels[mask])


@dataclass(frozen=True)
class Null:
    """What strangers, and those who stay, score with a number of records: strangers (looks, draws,
    strangers), members (looks, members)."""

    strangers: np.ndarray
    members: np.ndarray

    def p(self, scores: np.ndarray, side: str) -> np.ndarray:
        """The p-value over all looks of each of some patients, (n); scores (looks, n)."""
        sign = SIGNS[side]
        return upper_p(smallest_p(sign * scores, sign * self.strangers), self.smallest(side))

    def smallest(self, side: str) -> np.ndarray:
        """-log of the smallest p-value of each stranger's looks, (draws, strangers)."""
        if side not in self._smallest:
            null = SIGNS[side] * self.strangers
            self._smallest[side] = smallest_p(null, null, among_others=True)
        return self._smallest[side]

    _smallest: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @cached_property
    def p_of_members(self) -> np.ndarray:
        """Of those who stay: how far they are remembered."""
        return self.p(self.members, "remembered")


@dataclass(frozen=True)
class Nulls:
    """The same for any number of records."""

    strangers: Records
    members: Records
    seed: int
    _found: dict[int, Null] = field(default_factory=dict, repr=False)

    def of(self, records: int) -> Null:
        """With so many records."""
        if records not in self._found:
            self._found[records] = Null(
                resampled(self.strangers, records, DRAWS, self.seed),
                resampled(self.members, records, 1, self.seed)[:, 0],
            )
        return self._found[records]

    def judge(self, scores: np.ndarray, threshold: float, looks: Sequence[str]) -> dict:
        """A patient's row; scores (looks, records)."""
        null, scores = self.of(scores.shape[1]), scores.mean(1, keepdims=True)
        row = {"score": float(scores[0, 0]), "p": float(upper_p(scores[0], null.strangers[0])[0])}
        for side, sign in SIGNS.items():
            row[f"p_{side}"] = float(null.p(scores, side)[0])
            own = surprises(sign * scores, sign * null.strangers)[:, 0]
            by = np.flatnonzero(upper_p(own, null.smallest(side)) <= threshold)
            row[f"looks_{side}"] = ", ".join(looks[n] for n in by[np.argsort(-own[by])])
        stay = null.p_of_members
        return row | {"power": float((stay <= threshold).mean()) if len(stay) else math.nan}


def surprises(values: np.ndarray, null: np.ndarray, *, among_others: bool = False) -> np.ndarray:
    """-log (p / weight) of each look's values, (looks, ...), against the null of the same look. The
    first look, which finds most, has half of the weight, the others share the rest. among_others:
    as of `upper_p`."""
    weights = [1.0] if len(values) == 1 else [0.5, *[0.5 / (len(values) - 1)] * (len(values) - 1)]
    pairs = zip(values, null, strict=True)
    p = [upper_p(v, n, among_others=among_others) for v, n in pairs]
    return np.log(weights).reshape(-1, *[1] * (np.ndim(p) - 1)) - np.log(p)


def smallest_p(values: np.ndarray, null: np.ndarray, *, among_others: bool = False) -> np.ndarray:
    """-log of the smallest weighted p-value over the looks, (...)."""
    return surprises(values, null, among_others=among_others).max(0)


def resampled(records: Records, count: int, draws: int, seed: int) -> np.ndarray:
    """Mean scores of each patient as if they had `count` records, (looks, draws, patients): over so
    many of them, drawn without replacement, where a patient has as many. Where they have fewer,
    over all of them, drawn towards the mean of all patients until such means are as spread as they
    would be with `count` records (by the variances between and within patients)."""
    rng = np.random.default_rng([seed, count, 67])
    who, inverse, sizes = np.unique(records.patients, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(inverse, weights=s) for s in records.scores]) / sizes
    between, within = _variances(records.scores, inverse, sizes, means)
    found = np.empty((len(records.scores), draws, len(who)))
    for at, size in enumerate(sizes):
        if size >= count:
            own = np.flatnonzero(inverse == at)
            drawn = own[rng.random((draws, size)).argsort(1)[:, :count]]
            found[:, :, at] = records.scores[:, drawn].mean(-1)
        else:
            spread = np.maximum(between + within / size, 1e-12)
            towards = np.sqrt((between + within / count) / spread)
            centre = means.mean(1)
            found[:, :, at] = (centre + towards * (means[:, at] - centre))[:, None]
    return found


def _variances(
    scores: np.ndarray, patient: np.ndarray, sizes: np.ndarray, means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The variance of patients' true means, and of a patient's records around it, of each look."""
    squares = ((scores - means[:, patient]) ** 2).sum(1)
    within = squares / max(int((sizes - 1).sum()), 1)
    seen = means.var(1, ddof=1) if len(sizes) > 1 else np.zeros(len(scores))
    return np.maximum(seen - within * (1 / sizes).mean(), 0), within
