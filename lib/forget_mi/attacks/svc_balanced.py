"""The paper's SVC attack with members and strangers weighted alike, whatever their numbers."""

from __future__ import annotations

import numpy as np

from forget_mi.attacks.base import Evidence
from forget_mi.attacks.svc import member_calls
from forget_mi.metrics import Measure, Tower


def attack(evidence: Evidence, tower: Tower) -> list[Measure]:
    """mia_svc_balanced: share of D_f called member, 0 to 1; class weights inverse to |D_r| and |D_t|."""
    calls = member_calls(evidence, tower, class_weight="balanced")
    return [Measure("mia_svc_balanced", np.mean, {"forget": (calls,)})]
