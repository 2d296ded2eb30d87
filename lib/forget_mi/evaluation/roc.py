"""ROC curves under weights: the area, the left end, and their bootstrap by patient, all draws at
once."""

from __future__ import annotations

import numpy as np

# With fewer patients on either side no interval is given: a percentile bootstrap of so few says
# nothing.
MIN_PATIENTS = 8


class Roc:
    """The ROC curve of scores of members (n) against strangers (m), higher meaning member. Its
    measures take weights, members (..., n) and strangers (..., m), and give one number for each
    leading index; without any, all count alike.
    """

    def __init__(self, members: np.ndarray, strangers: np.ndarray):
        members, strangers = np.asarray(members, float), np.asarray(strangers, float)
        _, group = np.unique(-np.concatenate([members, strangers]), return_inverse=True)
        self._groups, self._of_members, self._of_strangers = (
            group.max() + 1,
            group[: len(members)],
            group[len(members) :],
        )

    def auc(
        self, members: np.ndarray | None = None, strangers: np.ndarray | None = None
    ) -> np.ndarray:
        """The area: the chance that a member scores above a stranger, ties counting one half. NaN
        without weight on either side."""
        tpr, fpr = self._rates(members, strangers)
        return np.trapezoid(tpr, fpr, axis=-1)

    def tpr_at_fpr(
        self, fpr: float, members: np.ndarray | None = None, strangers: np.ndarray | None = None
    ) -> np.ndarray:
        """Share of members above the lowest threshold that at most a share `fpr` of the strangers
        reach. Records of one score are taken or left together, so ties count against the attacker;
        with fewer than 1 / fpr strangers none may be accused."""
        tpr, rate = self._rates(members, strangers)
        # A hair more than asked for, so that 1 of 100 is 1 % in floating point too.
        return np.where(rate <= fpr + 1e-12, tpr, 0).max(-1) + 0 * rate[..., -1]

    def _rates(
        self, members: np.ndarray | None, strangers: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        rates = []
        for weights, group in ((members, self._of_members), (strangers, self._of_strangers)):
            weights = np.ones(len(group)) if weights is None else np.asarray(weights, float)
            order = np.argsort(group, kind="stable")
            starts = np.searchsorted(group[order], np.arange(self._groups + 1))
            total = np.concatenate(
                [np.zeros((*weights.shape[:-1], 1)), weights[..., order].cumsum(-1)], -1
            )[..., starts]
            with np.errstate(invalid="ignore"):
                rates.append(total / total[..., -1:])
        return rates[0], rates[1]


def patient_draws(patients: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap weights (draws, records): in each draw as many patients as there are, with
    replacement; the records of one go in or out together."""
    unique, inverse = np.unique(patients, return_inverse=True)
    counts = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=draws)
    return counts[:, inverse]


def percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """The interval (low, high) between two quantiles of bootstrap values; NaN where over half of
    them are undefined."""
    if np.isnan(values).mean() > 0.5:
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_patient(values: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each patient's records, and the patients in the same order (sorted)."""
    unique, inverse = np.unique(patients, return_inverse=True)
    return np.bincount(inverse, weights=values) / np.bincount(inverse), unique
