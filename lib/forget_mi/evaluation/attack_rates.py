"""From scores to what a privacy reviewer reads: areas and left ends of ROC curves, by record and by
patient, with intervals; the strongest attack, chosen on some patients and judged on others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from forget_mi.attacks import ATTACKS, RELATIVE, Evidence, Scores, available_attacks
from forget_mi.evaluation.roc import MIN_PATIENTS, Roc, by_patient, patient_draws, percentiles
from forget_mi.training import Tower

LEVELS = ("sample", "patient")


FPRS = {"tpr_at_01pct_fpr": 0.001, "tpr_at_1pct_fpr": 0.01, "tpr_at_5pct_fpr": 0.05}


STRONGEST = "strongest"


# Ways to cut the patients in two, one half to choose the strongest attack on and the other to judge
# it on.
CUTS = 10


Key = tuple[str, Tower]


class Patients(NamedTuple):
    """The patient of each record of D_f (n) and of D_t (m)."""

    forget: np.ndarray
    test: np.ndarray

    @property
    def enough(self) -> bool:
        """Whether there are enough on both sides for an interval."""
        return min(len(np.unique(side)) for side in self) >= MIN_PATIENTS


def patients_of(evidence: Evidence) -> Patients:
    """The patients of D_f and D_t."""
    return Patients(evidence.forget.patients, evidence.test.patients)


def all_scores(evidence: Evidence) -> dict[Key, Scores]:
    """Every attack that the evidence allows, on every tower that the model has."""
    attacks = ATTACKS | RELATIVE
    return {
        (name, tower): attacks[name](evidence, tower)
        for name in available_attacks(evidence)
        for tower in evidence.forget.towers
        if not (name == "embedding_shift" and evidence.joint is None)
    }


def at_level(scores: Scores, patients: Patients, level: str) -> tuple[Scores, Patients]:
    """The scores of records, or each patient's mean score."""
    if level == "sample":
        return scores, patients
    (forget, who), (test, others) = (
        by_patient(s, p) for s, p in zip(scores, patients, strict=True)
    )
    return Scores(forget, test), Patients(who, others)


class BootstrapWeights(NamedTuple):
    """Bootstrap weights of D_f (draws, n) and D_t (draws, m); the first draw is what was seen, each
    record once."""

    forget: np.ndarray
    test: np.ndarray

    @classmethod
    def sample(cls, patients: Patients, draws: int, seed: int) -> BootstrapWeights:
        """The same patients are drawn whatever attack or model is judged, so that differences are
        paired."""
        sides = []
        for side, who in enumerate(patients):
            weights = patient_draws(who, draws, np.random.default_rng([seed, side, 47]))
            sides.append(np.concatenate([np.ones((1, len(who))), weights]))
        return cls(*sides)

    def only(self, forget: np.ndarray, test: np.ndarray) -> BootstrapWeights:
        """Without the records outside of two masks."""
        return BootstrapWeights(self.forget * forget, self.test * test)


def rates(scores: Scores, draws: BootstrapWeights) -> dict[str, np.ndarray]:
    """AUC and the rates of FPRS in each draw."""
    roc = Roc(*scores)
    return {"auc": roc.auc(*draws)} | {
        name: roc.tpr_at_fpr(fpr, *draws) for name, fpr in FPRS.items()
    }


def strongest_rates(
    scores: Mapping[Key, Scores], patients: Patients, draws: BootstrapWeights, seed: int
) -> dict[str, np.ndarray]:
    """The rates of whichever attack and tower looks strongest, cross-fitted.

    The best of thirty attacks on a few patients looks better than it is. So the patients of both
    sides are cut in two at random, the attack with the largest AUC on one half is judged on the
    other, and the other way round; the mean over CUTS cuts. RELATIVE attacks take no part.
    """
    candidates = {key: Roc(*found) for key, found in scores.items() if key[0] in ATTACKS}
    rng, parts = np.random.default_rng([seed, 53]), []
    for _ in range(CUTS):
        halves = []
        for who in patients:
            unique, inverse = np.unique(who, return_inverse=True)
            halves.append((rng.permutation(len(unique)) % 2 == 0)[inverse])
        for here, there in ((halves, [~h for h in halves]), ([~h for h in halves], halves)):
            chosen = max(
                candidates, key=lambda key: np.nan_to_num(candidates[key].auc(*here), nan=-1.0)
            )
            parts.append(rates(scores[chosen], draws.only(*there)))
    return {name: np.nanmean([part[name] for part in parts], axis=0) for name in parts[0]}


def attack_table(
    scores: Mapping[Key, Scores], patients: Patients, *, draws: int, level: float, seed: int
) -> pd.DataFrame:
    """A row an attack, tower and level: attack, tower, level (sample or patient), auc, auc_low,
    auc_high, and for each of FPRS the rate with _low and _high.

    The intervals draw whole patients with replacement, and are NaN with fewer than MIN_PATIENTS
    patients of either side. The row `strongest` is cross-fitted (see `strongest_rates`), with tower
    'any'; it is left out without an interval.
    """
    rows = []
    for kind in LEVELS:
        found = {key: at_level(each, patients, kind)[0] for key, each in scores.items()}
        who = at_level(next(iter(scores.values())), patients, kind)[1]
        drawn = BootstrapWeights.sample(who, draws, seed)
        values = {key: rates(each, drawn) for key, each in found.items()}
        if who.enough:
            values[STRONGEST, "any"] = strongest_rates(found, who, drawn, seed)
        for (attack, tower), rate in values.items():
            row = {"attack": attack, "tower": tower, "level": kind}
            for name, draw in rate.items():
                low, high = (
                    percentiles(draw[1:], level) if who.enough else (float("nan"), float("nan"))
                )
                row |= {name: float(draw[0]), f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)
