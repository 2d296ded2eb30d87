"""A module an attack, all called alike: `attack(evidence, tower) -> list[Measure]`, scores that can be bootstrapped.

An attacker sees what a model says of records that were certainly members (D_r), of records that certainly were not
(D_t), and of the forgotten ones (D_f), and tells members from strangers.
"""

from __future__ import annotations

from forget_mi.attacks import loss_threshold, svc, svc_balanced
from forget_mi.attacks.base import Evidence

ATTACKS = {"svc": svc.attack, "svc_balanced": svc_balanced.attack, "loss_threshold": loss_threshold.attack}

__all__ = ["ATTACKS", "Evidence"]
