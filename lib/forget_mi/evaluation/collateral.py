"""What unlearning did to everybody else: neighbours of the forgotten patients, and groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from forget_mi.attacks import Scores
from forget_mi.data import Cohort
from forget_mi.evaluation.audit import ModelAudit
from forget_mi.evaluation.roc import MIN_PATIENTS, Roc
from forget_mi.metrics import macro_f1, mean_auc
from forget_mi.training import Predictions, Tower


def nearest(forgotten: np.ndarray, others: np.ndarray, neighbours: int) -> np.ndarray:
    """Positions, sorted and each once, of the records among `others` (m, width) that are one of the
    nearest `neighbours` of a forgotten record (n, width), by Euclidean distance."""
    search = NearestNeighbors(n_neighbors=min(neighbours, len(others))).fit(others)
    return np.unique(search.kneighbors(forgotten, return_distance=False))


def collateral_damage(audits: Mapping[str, ModelAudit], neighbours: int) -> pd.DataFrame:
    """What became of those who look like the forgotten patients: a row a model and set (retain,
    test). near, far: mean cross-entropy (fused) of the records that are one of the nearest
    `neighbours` of a forgotten record in F_og's joint embedding, and of all others; near_f1,
    far_f1: macro-F1."""
    original, rows = audits["original"], []
    for side in ("retain", "test"):
        close = nearest(
            original.joint_embeddings("forget"), original.joint_embeddings(side), neighbours
        )
        mask = np.isin(np.arange(len(original.rows[side])), close)
        for name, audit in audits.items():
            row = {"model": name, "set": side, "records_near": int(mask.sum())}
            for which, part in (("near", mask), ("far", ~mask)):
                seen = audit.predictions[side].select(part)
                row[which] = (
                    float(seen.cross_entropy("fused").mean()) if len(seen) else float("nan")
                )
                row[f"{which}_f1"] = _f1(seen, "fused")
            rows.append(row)
    return pd.DataFrame(rows).sort_values(["set", "model"], kind="stable", ignore_index=True)


def groupings(cohort: Cohort) -> dict[str, pd.Series]:
    """Each row's group in every way that the cohort offers: class, and sex, view and age (in three
    bands) where the table has them. Rows without a value have None."""
    table = cohort.table
    found = {"class": table.label.map(dict(enumerate(cohort.classes)))}
    found |= {
        name: table[name].where(table[name].notna()) for name in ("sex", "view") if name in table
    }
    if "age" in table:
        age = pd.to_numeric(table.age, errors="coerce")
        found["age"] = pd.cut(
            age, [-np.inf, 50, 70, np.inf], labels=["under 50", "50-69", "70 and over"], right=False
        )
    return {
        name: values.astype(object).where(values.notna(), None) for name, values in found.items()
    }


def by_group(
    audits: Mapping[str, ModelAudit], scores: Mapping[str, Scores], cohort: Cohort
) -> pd.DataFrame:
    """A row a model and group: grouping, group, patients_forget, patients_test, attack_auc (D_f
    against D_t of the group, by `scores`), test_auc, test_f1.

    A number that would rest on fewer than MIN_PATIENTS patients is NaN; whoever reads the table
    sees how many there are.
    """
    rows = []
    for grouping, values in groupings(cohort).items():
        for group in sorted({v for v in values if v is not None}, key=str):
            for name, audit in audits.items():
                mask = {
                    side: (values.iloc[audit.rows[side]] == group).to_numpy()
                    for side in ("forget", "test")
                }
                who = {
                    side: len(np.unique(audit.predictions[side].patients[mask[side]]))
                    for side in mask
                }
                row = {"model": name, "grouping": grouping, "group": group}
                row |= {f"patients_{side}": count for side, count in who.items()}
                forget, test = (
                    scores[name][i][mask[side]] for i, side in enumerate(("forget", "test"))
                )
                enough = min(who.values()) >= MIN_PATIENTS
                row["attack_auc"] = float(Roc(forget, test).auc()) if enough else float("nan")
                seen = audit.predictions["test"].select(mask["test"])
                known = who["test"] >= MIN_PATIENTS
                row["test_auc"] = (
                    mean_auc(seen.labels, seen.probabilities("fused")) if known else float("nan")
                )
                row["test_f1"] = _f1(seen, "fused") if known else float("nan")
                rows.append(row)
    return pd.DataFrame(rows)


def _f1(seen: Predictions, tower: Tower) -> float:
    return macro_f1(seen.labels, seen.probabilities(tower)) if len(seen) else float("nan")
