"""The paper's SVC attack with members and strangers weighted alike, whatever their numbers."""

from __future__ import annotations

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.attacks.svc import fitted
from forget_mi.metrics import Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x): the decision value of `svc.fitted` with class weights inverse to |D_r| and |D_t|. As with `svc`, it
    means something only beside a retrained model."""
    classifier = fitted(evidence, tower, class_weight="balanced")
    sides = (evidence.forget, evidence.test)
    return Scores(*(classifier.decision_function(p.cross_entropy(tower)[:, None]) for p in sides))
