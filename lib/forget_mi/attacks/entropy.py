"""Entropy threshold (Shokri et al., 2017; Salem et al., 2019): a prediction without doubt has been
learned."""

from __future__ import annotations

from scipy import stats

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.training import Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = -H(p) = sum_c p(c | x) log p(c | x), in nats. Needs no label, and costs nothing
    beyond the predictions; a record that was learned under a wrong label looks like any other."""
    both = (evidence.forget, evidence.test)
    return Scores(*(-stats.entropy(p.probabilities(tower), axis=-1) for p in both))
