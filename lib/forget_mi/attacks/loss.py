"""Loss threshold (Yeom et al., 2018, arXiv 1709.01604): a low loss means member."""

from __future__ import annotations

from forget_mi.attacks.base import Evidence, Scores
from forget_mi.training import Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = log p(y | x), the negative cross-entropy (their equation 4, as a threshold on the
    loss).

    Assumes that the attacker knows the label. Costs nothing beyond the predictions.
    """
    return Scores(-evidence.forget.cross_entropy(tower), -evidence.test.cross_entropy(tower))
