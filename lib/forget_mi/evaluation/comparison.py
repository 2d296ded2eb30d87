"""Models beside the retrained ones: gaps, closeness and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from forget_mi.evaluation.audit import ModelAudit
from forget_mi.evaluation.measures import logit_cosine_distance
from forget_mi.evaluation.patient_test import PatientTest


def against_retrained(audits: list[ModelAudit]) -> pd.DataFrame:
    """All measures of all models in one table, each beside the retrained models.

    Columns: model, measure, tower, value, low, high, retrained (mean over the retrained models),
    gap (value minus that), retrained_spread (largest minus smallest of the retrained models; NaN
    with fewer than two).
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
    order = [
        "model",
        "measure",
        "tower",
        "value",
        "low",
        "high",
        "retrained",
        "gap",
        "retrained_spread",
    ]
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


# The five measures whose mean absolute gap to the retrained models says how close a model is to
# them.
CLOSENESS = ("mia_svc_fused", "forget_auc", "forget_f1", "test_auc", "test_f1")


def mean_gap(row: Mapping[str, float], retrained: Sequence[Mapping[str, float]]) -> float:
    """Mean absolute difference over CLOSENESS to the mean of the retrained models; NaN without
    any."""
    if not retrained:
        return float("nan")
    return float(
        np.mean(
            [abs(row[name] - np.mean([other[name] for other in retrained])) for name in CLOSENESS]
        )
    )


# Of a hundred forgotten patients, how many an attacker finds who accuses so many of a hundred
# strangers.
FOUND_AT = {"patients_found_at_5pct": 0.05, "patients_found_at_1pct": 0.01}


def patients_found(test: PatientTest) -> dict[str, float]:
    """The columns of FOUND_AT, each with _low and _high, as shares; and members_found_at_5pct, the
    first of them for those who stay: what the test finds where there is something to find."""
    row = {}
    for name, level in FOUND_AT.items():
        found = test.found(level)
        row |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
    return row | {"members_found_at_5pct": test.found(0.05)["power"]}


def compare_models(
    audits: list[ModelAudit],
    fraction: float,
    seed: int,
    extra: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """One row a model: who it is, its measures, its distance to the retrained models, its cost.

    extra: more columns, by model (of `patients_found`, say). Columns: model, method, setting,
    forget_fraction (asked for, or the request's share of the training images), seed, extra, those
    of COMPARED, mean_gap (mean absolute difference over CLOSENESS to
    the mean of the retrained models; for a retrained model, to the mean of the others),
    logit_distance (1 - cosine of logits to the retrained models on D_r), seconds,
    share_of_retraining (seconds over the retrained models' mean), share_of_references (the same of
    what it cost the reference models to forget, where the method has them), share_of_work (of the
    retrained models' mean, in records that go forward and backward: the same on every machine).
    """
    retrained = [a for a in audits if a.manifest["method"] == "retrain"]
    seconds, work = (_mean_of(retrained, fact) for fact in ("seconds", "work"))
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
        row |= (extra or {}).get(audit.name, {})
        row |= {column: audit.value(*which) for column, which in COMPARED.items()}
        golden = [
            {column: other.value(*COMPARED[column]) for column in CLOSENESS} for other in others
        ]
        row["mean_gap"] = mean_gap(row, golden)
        distances = [
            logit_cosine_distance(audit.predictions["retain"], o.predictions["retain"])
            for o in others
        ]
        row["logit_distance"] = float(np.mean(distances)) if others else float("nan")
        row["seconds"] = audit.manifest["seconds"]
        row["share_of_retraining"] = audit.manifest["seconds"] / seconds
        row["share_of_references"] = audit.manifest.get("seconds_of_references", 0.0) / seconds
        row["share_of_work"] = (audit.manifest.get("work") or float("nan")) / work
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_of(audits: list[ModelAudit], fact: str) -> float:
    """A fact of the manifests on average; nan where one has none."""
    values = [audit.manifest.get(fact) for audit in audits]
    return float(np.mean([np.nan if v is None else v for v in values])) if values else float("nan")


def losses_by_record(audits: list[ModelAudit]) -> pd.DataFrame:
    """Every record's cross-entropy under every model: model, set, and one column a tower. No ids
    are in it."""
    parts = []
    for audit in audits:
        for side, predictions in audit.predictions.items():
            columns = {tower: predictions.cross_entropy(tower) for tower in predictions.towers}
            parts.append(pd.DataFrame({"model": audit.name, "set": side, **columns}))
    return pd.concat(parts, ignore_index=True)
