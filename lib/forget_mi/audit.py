"""The audit: every measure and attack of every model from one forward pass a model, with intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import pandas as pd
from accelerate import Accelerator
from pydantic import AfterValidator, Field

from forget_mi.attacks import Evidence
from forget_mi.attacks.embedding_shift import joint_embedding
from forget_mi.attacks.svc import member_calls
from forget_mi.batches import make_examples
from forget_mi.checkpoints import Checkpoint
from forget_mi.cohorts.base import Cohort
from forget_mi.metrics import (
    Measure,
    Predictions,
    Tower,
    binary_auc,
    logit_cosine_distance,
    macro_f1,
    mean_auc,
    predict,
)
from forget_mi.models import JointEmbedding, joint_embedding_or_none
from forget_mi.params import config
from forget_mi.roc import Roc
from forget_mi.shadows import Shadows
from forget_mi.splits import Request, rows_of

SETS = ("forget", "retain", "validation", "test")
# The side of patients whose request was served, and the set of their records where a study may keep them.
FORGOTTEN, EARLIER = "forgotten", "earlier"


def _a_spread(groups: int) -> int:
    if groups == 1:
        raise ValueError("one group has no spread; allowed are 0 and 2 or more")
    return groups


@config
class AuditConfig:
    """draws: bootstrap samples of patients. level: of the intervals. seed: of the bootstrap. approaches: which
    unlearned models of the run are audited; empty for all that there are. verdict_level: confidence of a verdict, over
    all of a model's checks together. u_lira: requests to each shadow model for the attack of that name on the params'
    method; 0 leaves it out. neighbours: of each forgotten patient, whose treatment is looked at. relearning: groups of
    strangers that the speed of relearning is compared with; 0 leaves that probe out, which trains each model anew for a
    few passes over each group."""

    draws: Annotated[int, Field(ge=50, le=100_000)] = 500
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Annotated[int, Field(ge=0)] = 0
    approaches: tuple[str, ...] = ()
    verdict_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    u_lira: Annotated[int, Field(ge=0, le=100)] = 0
    neighbours: Annotated[int, Field(ge=1, le=100)] = 3
    relearning: Annotated[int, Field(ge=0, le=100), AfterValidator(_a_spread)] = 6


@dataclass(frozen=True)
class ModelAudit:
    """What was measured of one model. predictions, rows: by set, what it says, and the table rows behind. measures: one
    row a measure and tower, with columns measure, tower, value, low, high. manifest: the checkpoint's. joint: the fixed
    joint embedding that goes with the model; None where its towers are of different widths."""

    name: str
    manifest: dict
    predictions: Mapping[str, Predictions]
    measures: pd.DataFrame
    rows: Mapping[str, np.ndarray]
    joint: JointEmbedding | None

    def value(self, measure: str, tower: Tower = "fused") -> float:
        """One measure's value; NaN of a tower that the model lacks."""
        table = self.measures
        found = table.value[(table.measure == measure) & (table.tower == tower)]
        return float(found.iloc[0]) if len(found) else float("nan")

    def evidence(
        self,
        original: ModelAudit | None = None,
        shadows: Shadows | None = None,
        unlearned: Shadows | None = None,
        forget: str = "forget",
    ) -> Evidence:
        """What an attacker sees of this model.

        original: the audit of F_og, for attacks that compare with it. shadows: shadow models on all rows of the
        cohort's table. unlearned: shadow models that forgot, on the rows of D_f and then D_t. forget: the set that
        stands in for D_f, such as the patients of earlier requests.
        """
        n = len(self.rows["forget"])
        sides = {"forget": forget, "validation": "validation", "test": "test"}
        judged = {"forget": forget, "test": "test"}
        halves = unlearned and {"forget": np.arange(n), "test": np.arange(n, unlearned.member.shape[1])}
        return Evidence(
            *(self.predictions[side] for side in (forget, *SETS[1:])),
            shadows=shadows and {role: shadows.of(self.rows[side]) for role, side in sides.items()},
            unlearned=unlearned and {role: unlearned.of(part) for role, part in halves.items()},
            original=original and {role: original.predictions[side] for role, side in judged.items()},
            joint=self.joint,
        )

    def place_of(self, side: str) -> np.ndarray:
        """J of the records of a set, (n, width)."""
        return joint_embedding(self.predictions[side], self.joint)


def audit_model(
    name: str,
    checkpoint: Checkpoint,
    cohort: Cohort,
    request: Request,
    settings: AuditConfig,
    accelerator: Accelerator,
) -> ModelAudit:
    """Measure one model: AUC and F1 on each set, and every attack, for each tower and the fused prediction."""
    model = checkpoint.model
    rows = rows_by_set(cohort, request)
    earlier = rows_of(cohort, FORGOTTEN)
    if len(earlier):
        rows[EARLIER] = earlier
    predictions = {
        side: predict(model, make_examples(cohort, rows[side], checkpoint.tokenizer, model.max_tokens), accelerator)
        for side in rows
    }
    measures = measure_all(predictions, settings)
    return ModelAudit(name, checkpoint.manifest, predictions, measures, rows, joint_embedding_or_none(model))


def rows_by_set(cohort: Cohort, request: Request) -> dict[str, np.ndarray]:
    """Table rows of each of SETS."""
    return {
        "forget": request.forget_rows(cohort),
        "retain": request.retain_rows(cohort),
        "validation": rows_of(cohort, "validation"),
        "test": rows_of(cohort, "test"),
    }


def measure_all(predictions: Mapping[str, Predictions], settings: AuditConfig) -> pd.DataFrame:
    """Every measure of `measures_of` for each tower, with its interval: measure, tower, value, low, high."""
    patients = {side: seen.patients for side, seen in predictions.items()}
    rows = []
    for tower in predictions["test"].towers:
        for measure in measures_of(predictions, tower):
            low, high = measure.interval(patients, draws=settings.draws, level=settings.level, seed=settings.seed)
            rows.append({"measure": measure.name, "tower": tower, "value": measure.value(), "low": low, "high": high})
    return pd.DataFrame(rows)


def measures_of(predictions: Mapping[str, Predictions], tower: Tower) -> list[Measure]:
    """AUC, macro-F1 and mean loss on each set; the shares that the paper's attack and its balanced form call members;
    and the loss attack's AUC and true positive rates at 1 % and 5 % false positives."""
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
        Measure("mia_svc_balanced", np.mean, {"forget": (member_calls(evidence, tower, "balanced"),)}),
        Measure("attack_auc", binary_auc, losses),
        *(Measure(f"attack_tpr_{n}", partial(_tpr, fpr=n / 100), losses) for n in (1, 5)),
    ]


def _tpr(members: np.ndarray, strangers: np.ndarray, fpr: float) -> float:
    return float(Roc(members, strangers).tpr_at_fpr(fpr))


def against_retrained(audits: list[ModelAudit]) -> pd.DataFrame:
    """All measures of all models in one table, each beside the retrained models.

    Columns: model, measure, tower, value, low, high, retrained (mean over the retrained models), gap (value minus
    that), retrained_spread (largest minus smallest of the retrained models; NaN with fewer than two).
    """
    table = pd.concat([a.measures.assign(model=a.name) for a in audits], ignore_index=True)
    names = [a.name for a in audits if a.manifest["method"] == "retrain"]
    if not names:
        return table.assign(retrained=np.nan, gap=np.nan, retrained_spread=np.nan)
    values = table[table.model.isin(names)].groupby(["measure", "tower"]).value
    reference = values.mean().rename("retrained").to_frame()
    reference["retrained_spread"] = values.max() - values.min() if len(names) > 1 else np.nan
    table = table.merge(reference.reset_index(), on=["measure", "tower"])
    table["gap"] = table.value - table.retrained
    order = ["model", "measure", "tower", "value", "low", "high", "retrained", "gap", "retrained_spread"]
    return table[order]


COMPARED = {
    "mia_svc_image": ("mia_svc", "image"),
    "mia_svc_fused": ("mia_svc", "fused"),
    "mia_svc_balanced": ("mia_svc_balanced", "fused"),
    "attack_auc": ("attack_auc", "fused"),
    "attack_tpr_1": ("attack_tpr_1", "fused"),
    "attack_tpr_5": ("attack_tpr_5", "fused"),
    "forget_auc": ("forget_auc", "fused"),
    "forget_f1": ("forget_f1", "fused"),
    "test_auc": ("test_auc", "fused"),
    "test_f1": ("test_f1", "fused"),
    "retain_auc": ("retain_auc", "fused"),
    "forget_auc_image": ("forget_auc", "image"),
    "forget_f1_image": ("forget_f1", "image"),
    "test_auc_image": ("test_auc", "image"),
    "test_f1_image": ("test_f1", "image"),
}
# The five measures whose mean absolute gap to the retrained models says how close a model is to them.
CLOSENESS = ("mia_svc_fused", "forget_auc", "forget_f1", "test_auc", "test_f1")


def mean_gap(row: Mapping[str, float], retrained: Sequence[Mapping[str, float]]) -> float:
    """Mean absolute difference over CLOSENESS to the mean of the retrained models; NaN without any."""
    if not retrained:
        return float("nan")
    return float(np.mean([abs(row[name] - np.mean([other[name] for other in retrained])) for name in CLOSENESS]))


def comparison(audits: list[ModelAudit], fraction: float, seed: int) -> pd.DataFrame:
    """One row a model: who it is, its measures, its distance to the retrained models, its cost.

    Columns: model, method, setting, forget_fraction (asked for, or the request's share of the training images), seed,
    those of COMPARED, mean_gap (mean absolute difference over CLOSENESS to the mean of the retrained models; for a
    retrained model, to the mean of the others), logit_distance (1 - cosine of logits to the retrained models on D_r),
    seconds, share_of_retraining (seconds over the retrained models' mean), share_of_references (the same of what it
    cost the reference models to forget, where the method has them).
    """
    retrained = [a for a in audits if a.manifest["method"] == "retrain"]
    seconds = float(np.mean([a.manifest["seconds"] for a in retrained])) if retrained else float("nan")
    rows = []
    for audit in audits:
        others = [other for other in retrained if other is not audit]
        row = {
            "model": audit.name,
            "method": audit.manifest["method"],
            "setting": audit.manifest["setting"],
            "forget_fraction": fraction,
            "seed": seed,
        }
        row |= {column: audit.value(*which) for column, which in COMPARED.items()}
        golden = [{column: other.value(*COMPARED[column]) for column in CLOSENESS} for other in others]
        row["mean_gap"] = mean_gap(row, golden)
        distances = [logit_cosine_distance(audit.predictions["retain"], o.predictions["retain"]) for o in others]
        row["logit_distance"] = float(np.mean(distances)) if others else float("nan")
        row["seconds"] = audit.manifest["seconds"]
        row["share_of_retraining"] = audit.manifest["seconds"] / seconds
        row["share_of_references"] = audit.manifest.get("seconds_of_references", 0.0) / seconds
        rows.append(row)
    return pd.DataFrame(rows)


def losses_by_record(audits: list[ModelAudit]) -> pd.DataFrame:
    """Every record's cross-entropy under every model: model, set, and one column a tower. No ids are in it."""
    parts = []
    for audit in audits:
        for side, predictions in audit.predictions.items():
            columns = {tower: predictions.cross_entropy(tower) for tower in predictions.towers}
            parts.append(pd.DataFrame({"model": audit.name, "set": side, **columns}))
    return pd.concat(parts, ignore_index=True)
