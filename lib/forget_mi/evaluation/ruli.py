"""RULI's games (Naderloui et al., 2025, arXiv 2506.13009): with many models of two kinds, does a
record's margin tell which kind a model is of?"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from forget_mi.metrics import binary_auc


def efficacy(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """AUC of telling F_ul from F_re by the margins on D_f; margins (models, records) of each. .5:
    as if never seen.

    Of each record, a model's margin is scored by the likelihood ratio of two Gaussians, fitted to
    the other models of either kind (never to itself), and the scores of all models and records are
    pooled.
    """
    return binary_auc(*likelihood_ratios(unlearned, retrained))


def likelihood_ratios(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log likelihood ratio, first kind over second, of each margin of the first kind and of
    the second, (models * records) each. Spreads are shared by all records, as in LiRA with few
    models."""
    scores = []
    for own, is_first in ((first, True), (second, False)):
        found = []
        for k in range(len(own)):
            rest = np.delete(own, k, axis=0)
            a, b = (rest, second) if is_first else (first, rest)
            found.append(_log_density(own[k], a) - _log_density(own[k], b))
        scores.append(np.concatenate(found))
    return scores[0], scores[1]


def _log_density(margins: np.ndarray, models: np.ndarray) -> np.ndarray:
    return norm.logpdf(
        margins, models.mean(0), max(float(np.sqrt(models.var(0, ddof=1).mean())), 1e-6)
    )
