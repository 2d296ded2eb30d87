"""Loss threshold (Yeom et al., 2018, arXiv 1709.01604): a low loss means member."""

from __future__ import annotations

from functools import partial

import numpy as np

from forget_mi.attacks.base import Evidence
from forget_mi.metrics import Measure, Tower, binary_auc


def attack(evidence: Evidence, tower: Tower) -> list[Measure]:
    """D_f against D_t by the negative cross-entropy, without training an attacker. attack_auc: ROC AUC, .5 where
    forgotten records look like strangers'; attack_tpr_1, attack_tpr_5: true positive rate at 1 % and 5 % false
    positives."""
    sides = {"forget": (-evidence.forget.cross_entropy(tower),), "test": (-evidence.test.cross_entropy(tower),)}
    return [
        Measure("attack_auc", binary_auc, sides),
        Measure("attack_tpr_1", partial(tpr_at_fpr, fpr=0.01), sides),
        Measure("attack_tpr_5", partial(tpr_at_fpr, fpr=0.05), sides),
    ]


def tpr_at_fpr(members: np.ndarray, strangers: np.ndarray, fpr: float) -> float:
    """Share of members above the lowest threshold that at most `fpr` of the strangers reach or pass; ties count
    against the attacker. With fewer than 1 / fpr strangers no stranger may reach the threshold."""
    allowed = int(np.floor(fpr * len(strangers)))
    threshold = np.sort(strangers)[::-1][allowed]
    return float((members > threshold).mean())
