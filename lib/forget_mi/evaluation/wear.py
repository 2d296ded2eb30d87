"""How far a model has worn by the requests that it served, estimated by its owner: from its answers
on validation patients and on those who stay, the same of the model as it was trained, and how many
were served since. No retrained model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from forget_mi.errors import InputError
from forget_mi.metrics import binary_auc, mean_auc
from forget_mi.training import Predictions

IN_WORDS = {
    "stay_loss": "the loss on those who stay has risen",
    "validation_auc": "the AUC on validation patients has fallen",
    "membership": "those who stay look less like training patients",
    "share_served": "many were served since the last training",
}


SIGNS = tuple(IN_WORDS)


def signs_of_wear(
    stay: Predictions,
    validation: Predictions,
    fresh_stay: Predictions,
    fresh_validation: Predictions,
    share_served: float,
) -> dict[str, float]:
    """What has become worse since the model was trained, each at least 0 (SIGNS).

    stay, validation: the model in use on patients who stay and on validation patients; fresh_...:
    the model as it was trained, on the same records. share_served: of the training records, those
    that requests have taken since. stay_loss: rise of the cross-entropy on those who stay, in nats.
    validation_auc: fall of the macro AUC. membership: fall of the AUC by which the loss tells those
    who stay from validation patients, whom a model trained anew would know as well as ever.
    """

    def told(mine: Predictions, strangers: Predictions) -> float:
        losses = [-side.cross_entropy("fused") for side in (mine, strangers)]
        return binary_auc(*losses)

    def fall(larger: float, smaller: float) -> float:
        return max(larger - smaller, 0.0)

    means = [float(each.cross_entropy("fused").mean()) for each in (stay, fresh_stay)]
    aucs = [
        mean_auc(each.labels, each.probabilities("fused"))
        for each in (fresh_validation, validation)
    ]
    return {
        "stay_loss": fall(*means),
        "validation_auc": fall(*aucs),
        "membership": fall(told(fresh_stay, fresh_validation), told(stay, validation)),
        "share_served": float(share_served),
    }


@dataclass(frozen=True)
class WearModel:
    """gap = sum of coefficient times sign, with coefficients of at least 0, so that more of any
    sign never means less wear."""

    coefficients: Mapping[str, float]

    @classmethod
    def fit(cls, signs: pd.DataFrame, gaps: Sequence[float]) -> WearModel:
        """By least squares under that condition (scipy's nnls), on models whose mean gap to
        retrained ones was measured. signs: a row a model, the columns of SIGNS.

        Raises InputError for fewer models than coefficients, or numbers that are not finite.
        """
        values, target = signs[list(SIGNS)].to_numpy(float), np.asarray(gaps, float)
        if len(values) <= len(SIGNS):
            raise InputError(
                f"{len(values)} models: more than {len(SIGNS)} are needed to calibrate the alarm"
            )
        if not (np.isfinite(values).all() and np.isfinite(target).all()):
            raise InputError("signs of wear or gaps that are not finite can't be calibrated on")
        return cls(dict(zip(SIGNS, (float(c) for c in nnls(values, target)[0]), strict=True)))

    def gap(self, signs: Mapping[str, float]) -> float:
        """The estimated mean gap of a model."""
        return float(sum(self._parts(signs).values()))

    def reason(self, signs: Mapping[str, float]) -> str:
        """What makes most of the estimate, in words."""
        parts = self._parts(signs)
        return IN_WORDS[max(parts, key=parts.get)]

    def _parts(self, signs: Mapping[str, float]) -> dict[str, float]:
        return {name: self.coefficients[name] * signs[name] for name in SIGNS}
