"""The score of a tuning trial: one rule for every method, on validation and forget data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from accelerate import Accelerator

from forget_mi.attacks import linear_probe
from forget_mi.data import Examples
from forget_mi.evaluation import trained_on
from forget_mi.metrics import binary_auc, macro_f1, mean_auc
from forget_mi.models import ImageTextModel
from forget_mi.training import Predictions, TrainingConfig, predict
from forget_mi.unlearning import UnlearningData


@dataclass(frozen=True)
class TuningCase:
    """One split and request to tune on: F_og, the data that a method is given, the records D_s of
    some who stay, the seed, the work of retraining (records times epochs),
    and how F_og was trained, for training on (None leaves that term out)."""

    name: str
    original: ImageTextModel
    data: UnlearningData
    stay: Examples
    seed: int
    retraining_work: float
    training: TrainingConfig | None = None


def watched(data: UnlearningData, share: float, seed: int) -> Examples:
    """The records D_s of a share of the retained patients, drawn at random: what becomes of those
    who stay is measured on them. The method is given them like all others of D_r, as it would be;
    what it shows itself of D_r is its own affair."""
    patients = np.unique(data.retain.patients.numpy())
    count = max(1, round(share * len(patients)))
    chosen = np.random.default_rng([seed, 23]).choice(patients, size=count, replace=False)
    return data.retain.select(np.flatnonzero(np.isin(data.retain.patients.numpy(), chosen)))


@dataclass(frozen=True)
class TuningPredictions:
    """A model's predictions for D_f, D_v and D_s: all that the rule looks at. stayers: how many
    records D_r has in all. later_forget, later_validation: the same once the model has been trained
    on, for an epoch on those who stay; None where it was not."""

    forget: Predictions
    validation: Predictions
    stay: Predictions
    stayers: int
    later_forget: Predictions | None = None
    later_validation: Predictions | None = None

    @classmethod
    def of_model(
        cls, model: ImageTextModel, case: TuningCase, accelerator: Accelerator
    ) -> TuningPredictions:
        """One pass. Raises FloatingPointError where the model's outputs are not finite."""
        sets = (case.data.forget, case.data.validation, case.stay)
        seen = [predict(model, each, accelerator) for each in sets]
        _check_finite(*seen)
        return cls(*seen, len(case.data.retain))


def with_training_on(
    seen: TuningPredictions, model: ImageTextModel, case: TuningCase, accelerator: Accelerator
) -> TuningPredictions:
    """The predictions with what the model says after an epoch of training on D_r; the same where
    the case does not say how F_og was trained. Raises FloatingPointError where that is not
    finite."""
    if case.training is None:
        return seen
    how = {"epochs": [1], "seed": case.seed, "accelerator": accelerator}
    ((_, later),) = trained_on(model, case.data.retain, case.training, **how)
    forget, validation = (
        predict(later, each, accelerator) for each in (case.data.forget, case.data.validation)
    )
    _check_finite(forget, validation)
    return replace(seen, later_forget=forget, later_validation=validation)


def _check_finite(*seen: Predictions) -> None:
    outputs = ("image_logits", "text_logits", "image_embedding", "text_embedding")
    if not all(np.isfinite(getattr(each, name)).all() for each in seen for name in outputs):
        raise FloatingPointError("the model's outputs are not finite; lower the rate")


def score_terms(original: TuningPredictions, unlearned: TuningPredictions) -> dict[str, float]:
    """The terms, each 0 at best; `total_score` makes one number of them.

    Forgotten patients should look like validation patients:
    - member_calls: the paper's attack, an SVC that learns from F_ul's losses what members (D_s) and
      strangers (D_v) look like; the share of D_f that it calls members, against the share of
      strangers that it does on F_og.
    - attack: ROC AUC of D_f's losses against D_v's, off .5, averaged over both towers and the fused
      prediction.
    - probe: ROC AUC, off .5, of a linear probe on the embeddings that learned from D_s and one half
      of D_v, for D_f against the other half; averaged likewise, over both halves.
    - forget_auc, forget_f1: AUC and macro-F1 on D_f, against those on D_v.
    - comes_back: how far the area of the losses is above .5 once the model has been trained on for
      an epoch, on those who stay; left out where it was not. The area, not its rise: little rises
      where little was forgotten.
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
    later = {}
    if unlearned.later_forget is not None:
        attacks_later = _loss_auc(unlearned.later_forget, unlearned.later_validation)
        later = {"comes_back": float(np.maximum(attacks_later - 0.5, 0).mean())}
    return later | {
        "member_calls": abs(_calls(unlearned, unlearned.forget) - validation_member_rate(original)),
        "attack": float(np.abs(attacks - 0.5).mean()),
        "probe": float(np.abs(_probe_auc(unlearned) - 0.5).mean()),
        "forget_auc": abs(auc["forget"] - auc["validation"]),
        "forget_f1": abs(f1["forget"] - f1["validation"]),
        "lost_auc": max(0.0, auc["before"] - auc["validation"]),
        "lost_f1": max(0.0, f1["before"] - f1["validation"]),
        "stay": float(np.maximum(known, 0).mean()),
    }


def total_score(terms: Mapping[str, float]) -> float:
    """The score of a trial: the mean of what the model is on the day, and half and half with what
    comes back afterwards where that was measured. What is only hidden is not forgotten, however
    well the day looks."""
    today = float(np.mean([value for name, value in terms.items() if name != "comes_back"]))
    return (today + terms["comes_back"]) / 2 if "comes_back" in terms else today


def validation_member_rate(seen: TuningPredictions) -> float:
    """The share of D_v that the attack calls members, each half of its patients judged by the
    attack that learned from the other half."""
    called = [
        _calls(replace(seen, validation=learned), judged) * len(judged) / len(seen.validation)
        for learned, judged in _halves(seen.validation)
    ]
    return float(sum(called))


def _halves(strangers: Predictions) -> tuple[tuple[Predictions, Predictions], ...]:
    """(learned from, judged) twice: D_v by halves of its patients, and the other way round."""
    half = strangers.patients % 2 == 0
    if half.all() or not half.any():
        half = np.arange(len(half)) % 2 == 0
    return tuple((strangers.select(~part), strangers.select(part)) for part in (half, ~half))


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


def _probe_auc(seen: TuningPredictions) -> np.ndarray:
    """ROC AUC of the linear probe by tower and fused (3), the mean over both halves of D_v."""
    areas = []
    for tower in seen.forget.towers:
        by_half = []
        for learned, judged in _halves(seen.validation):
            score = linear_probe.fit(seen.stay, learned, tower)
            by_half.append(binary_auc(score(seen.forget), score(judged)))
        areas.append(np.mean(by_half))
    return np.array(areas)


def _three(
    original: TuningPredictions, unlearned: TuningPredictions
) -> tuple[tuple[str, Predictions], ...]:
    return (
        ("before", original.validation),
        ("validation", unlearned.validation),
        ("forget", unlearned.forget),
    )
