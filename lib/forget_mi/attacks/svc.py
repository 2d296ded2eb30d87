"""The paper's attack: an RBF support vector classifier on one number a record, its cross-entropy."""

from __future__ import annotations

import numpy as np
from sklearn.svm import SVC

from forget_mi.attacks.base import Evidence
from forget_mi.metrics import Measure, Tower


def attack(evidence: Evidence, tower: Tower) -> list[Measure]:
    """mia_svc: share of D_f called member, 0 to 1, by `member_calls`."""
    return [Measure("mia_svc", np.mean, {"forget": (member_calls(evidence, tower),)})]


def member_calls(evidence: Evidence, tower: Tower, class_weight: str | None = None) -> np.ndarray:
    """Which records of D_f (bool, n) an SVC (C=3, RBF, gamma 'auto') trained on D_r = 1 against D_t = 0 calls members
    by their cross-entropy (Forget-MI, arXiv 2506.23145, section 3; the released evaluation).

    It is unbalanced, as many members as D_r has against as many strangers as D_t has, and it reads a single number:
    never report it alone.
    """
    members, strangers = evidence.retain.cross_entropy(tower), evidence.test.cross_entropy(tower)
    losses = np.concatenate([members, strangers])[:, None]
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(strangers))])
    classifier = SVC(C=3, kernel="rbf", gamma="auto", class_weight=class_weight).fit(losses, truth)
    return classifier.predict(evidence.forget.cross_entropy(tower)[:, None]) == 1
