"""What an attacker sees, and what he answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from forget_mi.models import JointEmbedding
from forget_mi.training import Predictions, Shadows, Tower, softmax


class Scores(NamedTuple):
    """The score of each record, higher meaning member: forget (n), of D_f; test (m), of
    D_t, certain strangers."""

    forget: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """One model's predictions on D_f, on D_r (certain members of an honest original's training
    set), and on D_v and D_t (certain strangers); and what some attacks need beside them.

    shadows: by set (forget, retain, validation, test), the predictions of shadow models for its
    records. unlearned: by set (forget, test), the same of shadow models that were unlearned.
    original: by set (forget, test), the predictions of F_og. joint: the fixed joint embedding.
    """

    forget: Predictions
    retain: Predictions
    validation: Predictions
    test: Predictions
    shadows: Mapping[str, Shadows] | None = None
    unlearned: Mapping[str, Shadows] | None = None
    original: Mapping[str, Predictions] | None = None
    joint: JointEmbedding | None = None


def mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of each record over the models of its mask (n), of values and mask (models, n); NaN
    where it has none."""
    count = mask.sum(0)
    return np.where(count > 0, np.where(mask, values, 0).sum(0) / np.maximum(count, 1), np.nan)


def gaussian(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean of each record over the models of its mask (n), and one standard deviation around it
    over all records.

    With few shadow models a spread of each record's own would be noise (Carlini et al., 2022,
    section VI-C). A record whose mask is empty is given the mean of the others' means.
    """
    means = mean_where(values, mask)
    squares = np.nansum(np.where(mask, values - means, 0) ** 2)
    # Each record's own mean costs one degree of freedom.
    spread = np.sqrt(squares / max(np.maximum(mask.sum(0) - 1, 0).sum(), 1))
    return np.where(np.isnan(means), np.nanmean(means), means), max(float(spread), 1e-6)


def true_probability(predictions: Predictions, tower: Tower) -> np.ndarray:
    """p(y | record), (n), of the record's own label."""
    return predictions.probabilities(tower)[np.arange(len(predictions)), predictions.labels]


def margins(predictions: Predictions, tower: Tower) -> np.ndarray:
    """log p - log(1 - p) of each record's label (n), in nats. Of one tower that is the label's
    logit less the logsumexp of the others'; of the fused prediction p and 1 - p are each averaged
    over the towers, so that a record that was learned by heart does not end at infinity."""
    records, labels = np.arange(len(predictions)), predictions.labels
    found = predictions.logits(tower)
    if len(found) > 1:
        both = []
        for logits in found:
            p = softmax(logits)
            right = p[records, labels].copy()
            p[records, labels] = 0
            both.append((right, p.sum(-1)))
        right, wrong = ((a + b) / 2 for a, b in zip(*both, strict=True))
        tiny = np.finfo(np.float64).tiny
        return np.log(np.maximum(right, tiny)) - np.log(np.maximum(wrong, tiny))
    logits = found[0].astype(np.float64)
    others = logits.copy()
    others[records, labels] = -np.inf
    return logits[records, labels] - logsumexp(others, axis=-1)
