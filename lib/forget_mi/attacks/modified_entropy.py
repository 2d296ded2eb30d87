"""Modified entropy (Song & Mittal, USENIX Security 2021, arXiv 2003.10595, their equation 7)."""

from __future__ import annotations

import numpy as np

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.training import Predictions, Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = -Mentr(p, y), by `modified_entropy`. Assumes that the attacker knows the label;
    costs nothing beyond the predictions."""
    return Scores(
        -modified_entropy(evidence.forget, tower), -modified_entropy(evidence.test, tower)
    )


def modified_entropy(predictions: Predictions, tower: Tower) -> np.ndarray:
    """Mentr(p, y) = -(1 - p_y) log p_y - sum_{c != y} p_c log(1 - p_c), (n), in nats: 0 where the
    model is sure and right, large where it is sure and wrong."""
    p = predictions.probabilities(tower)
    records, tiny = np.arange(len(p)), np.finfo(np.float64).tiny
    right = p[records, predictions.labels]
    others = p * np.log(np.maximum(1 - p, tiny))
    others[records, predictions.labels] = 0
    return -(1 - right) * np.log(np.maximum(right, tiny)) - others.sum(-1)
