"""The score of a tuning trial: one rule for every method, on validation and forget data alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from accelerate import Accelerator

from forget_mi.data import Examples
from forget_mi.metrics import binary_auc, macro_f1, mean_auc
from forget_mi.models import ImageTextModel
from forget_mi.training import Predictions, predict
from forget_mi.unlearning import UnlearningData


@dataclass(frozen=True)
class TuningCase:
    """One split and request to tune on: F_og, the data that a method is given, the records D_s of
    those who stay that it is not given, the seed, and the work of retraining (records times
    epochs)."""

    name: str
    original: ImageTextModel
    data: UnlearningData
    stay: Examples
    seed: int
    retraining_work: float


def withhold(data: UnlearningData, share: float, seed: int) -> tuple[UnlearningData, Examples]:
    """The data without a share of the retained patients, and the records of those, D_s."""
    patients = np.unique(data.retain.patients.numpy())
    count = max(1, round(share * len(patients)))
    chosen = np.random.default_rng([seed, 23]).choice(patients, size=count, replace=False)
    away = np.isin(data.retain.patients.numpy(), chosen)
    return replace(data, retain=data.retain.select(np.flatnonzero(~away))), data.retain.select(
        np.flatnonzero(away)
    )


@dataclass(frozen=True)
class TuningPredictions:
    """A model's predictions for D_f, D_v and D_s: all that the rule looks at. stayers: how many
    records D_r has in all."""

    forget: Predictions
    validation: Predictions
    stay: Predictions
    stayers: int

    @classmethod
    def of_model(
        cls, model: ImageTextModel, case: TuningCase, accelerator: Accelerator
    ) -> TuningPredictions:
        """One pass."""
        sets = (case.data.forget, case.data.validation, case.stay)
        return cls(
            *(predict(model, each, accelerator) for each in sets),
            len(case.data.retain) + len(case.stay),
        )


def score_terms(original: TuningPredictions, unlearned: TuningPredictions) -> dict[str, float]:
    """The seven terms, each 0 at best; the score of a trial is their mean.

    Forgotten patients should look like validation patients:
    - member_calls: the paper's attack, an SVC that learns from F_ul's losses what members (D_s) and
      strangers (D_v) look like; the share of D_f that it calls members, against the share of
      strangers that it does on F_og.
    - attack: ROC AUC of D_f's losses against D_v's, off .5, averaged over both towers and the fused
      prediction.
    - forget_auc, forget_f1: AUC and macro-F1 on D_f, against those on D_v.
    The model should stay as useful as it was, and those who stay as well known as they were:
    - lost_auc, lost_f1: what F_ul lost on D_v against F_og; a gain counts nothing.
    - stay: what was lost of the ROC AUC of D_s's losses against D_v's, averaged like `attack`.
    """
    auc = {
        name: mean_auc(p.labels, p.probabilities("fused"))
        for name, p in _three(original, unlearned)
    }
    f1 = {
        name: macro_f1(p.labels, p.probabilities("fused"))
        for name, p in _three(original, unlearned)
    }
    attacks = _loss_auc(unlearned.forget, unlearned.validation)
    known = _loss_auc(original.stay, original.validation) - _loss_auc(
        unlearned.stay, unlearned.validation
    )
    return {
        "member_calls": abs(_calls(unlearned, unlearned.forget) - validation_member_rate(original)),
        "attack": float(np.abs(attacks - 0.5).mean()),
        "forget_auc": abs(auc["forget"] - auc["validation"]),
        "forget_f1": abs(f1["forget"] - f1["validation"]),
        "lost_auc": max(0.0, auc["before"] - auc["validation"]),
        "lost_f1": max(0.0, f1["before"] - f1["validation"]),
        "stay": float(np.maximum(known, 0).mean()),
    }


def validation_member_rate(seen: TuningPredictions) -> float:
    """The share of D_v that the attack calls members, each half of its patients judged by the
    attack that learned from the other half."""
    half = seen.validation.patients % 2 == 0
    if half.all() or not half.any():
        half = np.arange(len(half)) % 2 == 0
    called = [
        _calls(
            replace(seen, validation=seen.validation.select(~part)), seen.validation.select(part)
        )
        * part.mean()
        for part in (half, ~half)
    ]
    return float(sum(called))


def _calls(seen: TuningPredictions, judged: Predictions) -> float:
    """Share of some records that an SVC trained on D_s = 1 against D_v = 0 calls members. D_s
    counts as if all of D_r were there, as the paper's attack has it."""
    from sklearn.svm import SVC

    losses = np.concatenate(
        [seen.stay.cross_entropy("fused"), seen.validation.cross_entropy("fused")]
    )
    truth = np.repeat([1, 0], [len(seen.stay), len(seen.validation)])
    weight = {1: seen.stayers / len(seen.stay), 0: 1.0}
    attack = SVC(C=3, kernel="rbf", gamma="auto", class_weight=weight).fit(losses[:, None], truth)
    return float(attack.predict(judged.cross_entropy("fused")[:, None]).mean())


def _loss_auc(members: Predictions, strangers: Predictions) -> np.ndarray:
    """ROC AUC of the losses of members against strangers by tower and fused (3)."""
    return np.array(
        [binary_auc(-members.cross_entropy(t), -strangers.cross_entropy(t)) for t in members.towers]
    )


def _three(
    original: TuningPredictions, unlearned: TuningPredictions
) -> tuple[tuple[str, Predictions], ...]:
    return (
        ("before", original.validation),
        ("validation", unlearned.validation),
        ("forget", unlearned.forget),
    )
