"""The audit: every measure and attack of every model from one forward pass a model, with intervals
by patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from accelerate import Accelerator

from forget_mi.attacks import Evidence, joint_embedding
from forget_mi.data import Cohort, Request, make_examples, rows_of
from forget_mi.evaluation.config import AuditConfig
from forget_mi.evaluation.measures import SETS, measures_of
from forget_mi.models import Checkpoint, JointEmbedding, joint_embedding_or_none
from forget_mi.training import Predictions, Shadows, Tower, predict

# The side of patients whose request was served, and the set of their records where a study may keep
# them.
FORGOTTEN, EARLIER = "forgotten", "earlier"


@dataclass(frozen=True)
class ModelAudit:
    """What was measured of one model. predictions, rows: by set, its predictions, and the table
    rows behind. measures: one row a measure and tower, with columns measure, tower, value, low,
    high. manifest: the checkpoint's. joint: the fixed joint embedding that goes with the model;
    None where its towers are of different widths."""

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

        original: the audit of F_og, for attacks that compare with it. shadows: shadow models on all
        rows of the cohort's table. unlearned: shadow models that forgot, on the rows of D_f and
        then D_t. forget: the set that stands in for D_f, such as the patients of earlier requests.
        """
        n = len(self.rows["forget"])
        sides = {"forget": forget, **{side: side for side in SETS[1:]}}
        judged = {"forget": forget, "test": "test"}
        halves = unlearned and {
            "forget": np.arange(n),
            "test": np.arange(n, unlearned.member.shape[1]),
        }
        return Evidence(
            *(self.predictions[side] for side in (forget, *SETS[1:])),
            shadows=shadows
            and {role: shadows.select(self.rows[side]) for role, side in sides.items()},
            unlearned=unlearned and {role: unlearned.select(part) for role, part in halves.items()},
            original=original
            and {role: original.predictions[side] for role, side in judged.items()},
            joint=self.joint,
        )

    def joint_embeddings(self, side: str) -> np.ndarray:
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
    """Measure one model: AUC and F1 on each set, and every attack, for each tower and the fused
    prediction."""
    model = checkpoint.model
    rows = rows_by_set(cohort, request)
    earlier = rows_of(cohort, FORGOTTEN)
    if len(earlier):
        rows[EARLIER] = earlier
    predictions = {
        side: predict(
            model,
            make_examples(cohort, rows[side], checkpoint.tokenizer, model.max_tokens),
            accelerator,
        )
        for side in rows
    }
    measures = measure_all(predictions, settings)
    return ModelAudit(
        name, checkpoint.manifest, predictions, measures, rows, joint_embedding_or_none(model)
    )


def rows_by_set(cohort: Cohort, request: Request) -> dict[str, np.ndarray]:
    """Table rows of each of SETS."""
    return {
        "forget": request.forget_rows(cohort),
        "retain": request.retain_rows(cohort),
        "validation": rows_of(cohort, "validation"),
        "test": rows_of(cohort, "test"),
    }


def measure_all(predictions: Mapping[str, Predictions], settings: AuditConfig) -> pd.DataFrame:
    """Every measure of `measures_of` for each tower, with its interval: measure, tower, value, low,
    high."""
    patients = {side: seen.patients for side, seen in predictions.items()}
    rows = []
    for tower in predictions["test"].towers:
        for measure in measures_of(predictions, tower):
            low, high = measure.interval(
                patients, draws=settings.draws, level=settings.level, seed=settings.seed
            )
            rows.append(
                {
                    "measure": measure.name,
                    "tower": tower,
                    "value": measure.value(),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)
