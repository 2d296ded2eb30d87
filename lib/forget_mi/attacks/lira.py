"""LiRA, online (Carlini et al., S&P 2022, arXiv 2112.03570): is this margin what models say that
know the record, or what models say that don't?"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from forget_mi.attacks.base import Evidence, Scores, gaussian, margins
from forget_mi.training import Predictions, Shadows, Tower


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = log N(m; mu_in(x), sigma_in) - log N(m; mu_out(x), sigma_out), with m the margin
    of the model at hand and mu the mean margin of the shadow models that were, or were not, trained
    on x (their algorithm 1).

    The spreads are shared by all records (see `base.gaussian`). Assumes that the attacker knows how
    the model was trained and has patients like the cohort's. Costs the training of the shadow
    models, once a cohort.
    """
    return Scores(
        likelihood_ratio(evidence.forget, evidence.shadows["forget"], tower),
        likelihood_ratio(evidence.test, evidence.shadows["test"], tower),
    )


def likelihood_ratio(predictions: Predictions, shadows: Shadows, tower: Tower) -> np.ndarray:
    """The log likelihood ratio of each record (n)."""
    found = np.stack([margins(p, tower) for p in shadows.predictions])
    means, spreads = zip(
        *(gaussian(found, mask) for mask in (shadows.member, shadows.stranger)), strict=True
    )
    m = margins(predictions, tower)
    return norm.logpdf(m, means[0], spreads[0]) - norm.logpdf(m, means[1], spreads[1])
