"""The paper's attack: an RBF support vector classifier on one number a record, its
cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.training import Tower

if TYPE_CHECKING:
    from sklearn.svm import SVC


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x): the classifier's decision value; above 0 it calls the record a member.

    It learned from D_t, so its scores there are of records it knows, and its ROC means something
    only beside that of a retrained model. Costs one fit of |D_r| + |D_t| numbers.
    """
    return decision_values(evidence, tower)


def decision_values(evidence: Evidence, tower: Tower, class_weight: str | None = None) -> Scores:
    """The decision values of `fitted` on D_f and D_t."""
    classifier = fitted(evidence, tower, class_weight)
    return Scores(
        *(classifier.decision_function(_column(p, tower)) for p in (evidence.forget, evidence.test))
    )


def member_calls(evidence: Evidence, tower: Tower, class_weight: str | None = None) -> np.ndarray:
    """Which records of D_f (bool, n) the classifier calls members: the paper's MIA score is their
    share.

    It is unbalanced, as many members as D_r has against as many strangers as D_t has, and it reads
    a single number: never report it alone.
    """
    return fitted(evidence, tower, class_weight).predict(_column(evidence.forget, tower)) == 1


def fitted(evidence: Evidence, tower: Tower, class_weight: str | None = None) -> SVC:
    """SVC (C=3, RBF, gamma 'auto') on the cross-entropies of D_r = 1 against D_t = 0 (Forget-MI,
    arXiv 2506.23145, section 3; the released evaluation)."""
    from sklearn.svm import SVC

    members, strangers = _column(evidence.retain, tower), _column(evidence.test, tower)
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(strangers))])
    classifier = SVC(C=3, kernel="rbf", gamma="auto", class_weight=class_weight)
    return classifier.fit(np.concatenate([members, strangers]), truth)


def _column(predictions, tower: Tower) -> np.ndarray:
    return predictions.cross_entropy(tower)[:, None]
