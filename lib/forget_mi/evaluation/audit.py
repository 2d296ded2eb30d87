"""The audit: every measure and attack of every model from one forward pass a model, with intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from accelerate import Accelerator
from pydantic import AfterValidator, Field

from forget_mi.attacks.base import Evidence
from forget_mi.attacks.embedding_shift import joint_embedding
from forget_mi.config import config
from forget_mi.data.batches import make_examples
from forget_mi.data.cohort import Cohort, rows_of
from forget_mi.data.requests import Request
from forget_mi.evaluation.measures import SETS, measures_of
from forget_mi.models.checkpoints import Checkpoint
from forget_mi.models.joint_embedding import JointEmbedding, joint_embedding_or_none
from forget_mi.training.prediction import Predictions, Tower, predict
from forget_mi.training.shadows import Shadows

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
