"""Every measure of a model, with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from forget_mi.attacks import Evidence, member_calls
from forget_mi.evaluation.roc import Roc
from forget_mi.metrics import binary_auc, macro_f1, mean_auc
from forget_mi.training import Predictions, Tower


def logit_cosine_distance(a: Predictions, b: Predictions) -> float:
    """1 - cosine between two models' logits (both towers side by side) of the same records,
    averaged; 0 to 2."""
    x, y = (np.concatenate([p.image_logits, p.text_logits], -1).astype(np.float64) for p in (a, b))
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(np.mean(1 - (x * y).sum(-1) / np.maximum(norms, 1e-12)))


@dataclass(frozen=True)
class Measure:
    """A statistic of some records, ready to be evaluated and to be bootstrapped by patient.

    sets: for each set of records it reads (forget, test, ...), the arrays of that set, all of one
    length; `statistic` takes all arrays of all sets in this order and gives a number.
    """

    name: str
    statistic: Callable[..., float]
    sets: Mapping[str, tuple[np.ndarray, ...]]

    def value(self) -> float:
        """The statistic of all records."""
        return float(self.statistic(*(array for arrays in self.sets.values() for array in arrays)))

    def interval(
        self, patients: Mapping[str, np.ndarray], *, draws: int, level: float, seed: int
    ) -> tuple[float, float]:
        """Percentile bootstrap interval (low, high), drawing whole patients of each set with
        replacement: a patient's records are not independent, so they go in or out together.

        patients: the patient of each record of each set. NaN where a set has fewer than two
        patients, or where the statistic is undefined in over half of the draws.
        """
        rng = np.random.default_rng([seed, 13])
        records_of = {}
        for side in self.sets:
            unique, inverse = np.unique(patients[side], return_inverse=True)
            if len(unique) < 2:
                return float("nan"), float("nan")
            records_of[side] = [np.flatnonzero(inverse == k) for k in range(len(unique))]
        values = np.empty(draws)
        for draw in range(draws):
            drawn = []
            for side, arrays in self.sets.items():
                records = records_of[side]
                index = np.concatenate(
                    [records[k] for k in rng.integers(len(records), size=len(records))]
                )
                drawn.extend(array[index] for array in arrays)
            values[draw] = self.statistic(*drawn)
        if np.isnan(values).mean() > 0.5:
            return float("nan"), float("nan")
        low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


SETS = ("forget", "retain", "validation", "test")


def measures_of(predictions: Mapping[str, Predictions], tower: Tower) -> list[Measure]:
    """AUC, macro-F1 and mean loss on each set; the shares that the paper's attack and its balanced
    form call members; and the loss attack's AUC and true positive rates at 1 % and 5 % false
    positives."""
    measures = []
    for side in SETS:
        labels, probabilities = predictions[side].labels, predictions[side].probabilities(tower)
        measures += [
            Measure(f"{side}_auc", mean_auc, {side: (labels, probabilities)}),
            Measure(f"{side}_f1", macro_f1, {side: (labels, probabilities)}),
            Measure(f"{side}_loss", np.mean, {side: (predictions[side].cross_entropy(tower),)}),
        ]
    evidence = Evidence(*(predictions[side] for side in SETS))
    losses = {side: (-predictions[side].cross_entropy(tower),) for side in ("forget", "test")}
    return [
        *measures,
        Measure("mia_svc", np.mean, {"forget": (member_calls(evidence, tower),)}),
        Measure(
            "mia_svc_balanced", np.mean, {"forget": (member_calls(evidence, tower, "balanced"),)}
        ),
        Measure("attack_auc", binary_auc, losses),
        *(Measure(f"attack_tpr_{n}", partial(_tpr, fpr=n / 100), losses) for n in (1, 5)),
    ]


def _tpr(members: np.ndarray, strangers: np.ndarray, fpr: float) -> float:
    return float(Roc(members, strangers).tpr_at_fpr(fpr))
