"""Confidence threshold (Salem et al., 2019, arXiv 1806.01246, their adversary 3): a sure model has
seen the record."""

from __future__ import annotations

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.training import Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = max_c p(c | x). Needs no label, and costs nothing beyond the predictions."""
    return Scores(*(p.probabilities(tower).max(-1) for p in (evidence.forget, evidence.test)))
