"""LiRA, offline (Carlini et al., S&P 2022, arXiv 2112.03570, section VI-B): shadow models that
never saw the record."""

from __future__ import annotations

import numpy as np

from forget_mi.attacks.base import Evidence, Scores, gaussian, margins
from forget_mi.training import Predictions, Shadows, Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = (m - mu_out(x)) / sigma_out: how far the margin lies above what models say that
    don't know x.

    An attacker who trains his shadow models before he knows whom he is after. Costs half of the
    online form's models.
    """
    return Scores(
        surprise(evidence.forget, evidence.shadows["forget"], tower),
        surprise(evidence.test, evidence.shadows["test"], tower),
    )


def surprise(predictions: Predictions, shadows: Shadows, tower: Tower) -> np.ndarray:
    """Standardised distance of each record's margin (n) to the shadow models' that never saw it."""
    mean, spread = gaussian(
        np.stack([margins(p, tower) for p in shadows.predictions]), shadows.stranger
    )
    return (margins(predictions, tower) - mean) / spread
