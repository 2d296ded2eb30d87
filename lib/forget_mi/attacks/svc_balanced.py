"""The paper's SVC attack with members and strangers weighted alike, whatever their numbers."""

from __future__ import annotations

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.attacks.svc import decision_values
from forget_mi.training import Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x): the decision value of `svc.fitted` with class weights inverse to |D_r| and |D_t|.
    As with `svc`, it means something only beside a retrained model."""
    return decision_values(evidence, tower, class_weight="balanced")
