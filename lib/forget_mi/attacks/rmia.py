"""RMIA (Zarifzadeh et al., ICML 2024, arXiv 2312.03262): does the record stand out among strangers,
each measured by what it is usually worth?"""

from __future__ import annotations

import numpy as np

from forget_mi.attacks.base import Evidence, Scores, mean_where, true_probability
from forget_mi.training import Predictions, Shadows, Tower

GAMMA = 2.0


def attack(evidence: Evidence, tower: Tower) -> Scores:
    """score(x) = share of population records z with ratio(x) / ratio(z) >= GAMMA, where ratio(x) =
    p(y | x; F) / p(x) and p(x) is the mean of p(y | x) over the shadow models, one half of which
    know x (their equations 2 to 4).

    The population is D_v, so that no record is compared with itself. Ties, which a few hundred
    population records leave at 0 and 1, are broken by ratio(x). Assumes and costs what LiRA does,
    and needs fewer shadow models.
    """
    ratios = {
        side: ratio(getattr(evidence, side), evidence.shadows[side], tower)
        for side in ("forget", "validation", "test")
    }
    return Scores(
        *(share_passed(ratios[side], ratios["validation"]) for side in ("forget", "test"))
    )


def ratio(predictions: Predictions, shadows: Shadows, tower: Tower) -> np.ndarray:
    """p(y | x; F) / p(x) of each record (n); p(x) averages the models that know it and those that
    don't, half and half."""
    p = np.stack([true_probability(each, tower) for each in shadows.predictions])
    halves = [np.nan_to_num(mean_where(p, mask)) for mask in (shadows.member, shadows.stranger)]
    return true_probability(predictions, tower) / np.maximum((halves[0] + halves[1]) / 2, 1e-12)


def share_passed(ratios: np.ndarray, population: np.ndarray) -> np.ndarray:
    """Share of the population that each ratio is at least GAMMA times as large as; less than one
    population record's share is added in the order of the ratios."""
    passed = np.searchsorted(np.sort(GAMMA * population), ratios, side="right") / len(population)
    return passed + ratios / (1 + ratios) / (2 * len(population))
