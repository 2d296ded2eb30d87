"""A module an attack, all called alike: `attack(evidence, tower) -> Scores`, higher meaning member.

An attacker sees a model's predictions for records that were certainly members (D_r), of records
that certainly were not (D_v and D_t), and of the forgotten ones (D_f), and tells members from
strangers. Of a model that never saw the forgotten patients each of ATTACKS gets an area of .5 under
its ROC curve, whatever the model; those in RELATIVE mean something only beside a retrained model.
"""

from __future__ import annotations

from forget_mi.attacks import (
    confidence,
    embedding_shift,
    entropy,
    linear_probe,
    lira,
    lira_offline,
    loss,
    modified_entropy,
    rmia,
    svc,
    svc_balanced,
    u_lira,
)
from forget_mi.attacks.base import Evidence

ATTACKS = {
    "loss": loss.attack,
    "confidence": confidence.attack,
    "entropy": entropy.attack,
    "modified_entropy": modified_entropy.attack,
    "linear_probe": linear_probe.attack,
    "lira": lira.attack,
    "lira_offline": lira_offline.attack,
    "rmia": rmia.attack,
    "u_lira": u_lira.attack,
}


RELATIVE = {
    "svc": svc.attack,
    "svc_balanced": svc_balanced.attack,
    "embedding_shift": embedding_shift.attack,
}


NEEDS = {"lira": "shadows", "lira_offline": "shadows", "rmia": "shadows", "u_lira": "unlearned",
         "embedding_shift": "original"}  # fmt: skip


def available_attacks(evidence: Evidence) -> list[str]:
    """The attacks that the evidence allows."""
    return [
        n
        for n in (*ATTACKS, *RELATIVE)
        if n not in NEEDS or getattr(evidence, NEEDS[n]) is not None
    ]
