"""figures/audit.csv and the table of the docs, from the audits of a sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd

from forget_mi import plots
from forget_mi.evaluation import FOUND_AT, STRONGEST, statistics
from forget_mi.plots import audit as audit_plots
from forget_mi.runs import ROOT, write_table
from forget_mi.studies.documents import write_document_table
from forget_mi.studies.sweep import Sweep

ONE_PATIENT = "one_patient"


def rebuild_audit(sweep: Sweep) -> pd.DataFrame:
    """figures/audit.csv, its picture and the table of the docs from the audits of the sweep's
    largest requests."""
    table = audit_over_seeds(sweep)
    write_table(ROOT / "figures" / "audit.csv", table)
    plots.set_style()
    audit_plots.attacks_by_approach(table, first=sweep.own).savefig(ROOT / "figures" / "audit.png")
    write_document_table("audit", audit_table(table, sweep.own))
    return table


def audit_over_seeds(sweep: Sweep) -> pd.DataFrame:
    """Every attack on the fused prediction, and the strongest on any, for every approach, over the
    seeds of the sweep's largest request: model, attack, level, auc, auc_low, auc_high,
    tpr_at_1pct_fpr, and that with _low and _high, seeds; and the rows of the test of each patient
    (attack ONE_PATIENT), which have FOUND_AT instead.

    A row is the mean over seeds (of a seed's retrained models, their mean). Its interval adds up
    the seeds' own, which come from different requests; models of one seed are judged on the same
    patients, and their intervals averaged.
    """
    largest = max(sweep.grid.fractions)
    parts = []
    for seed in sweep.grid.seeds:
        folder = sweep.folder / f"seed{seed}-{100 * largest:g}pct" / "04_audit"
        methods = pd.read_csv(folder / "comparison.csv")[["model", "method"]]
        found = pd.read_csv(folder / "attacks.csv").merge(methods, on="model")
        found = found[found.tower.isin(["fused", "any"])]
        one = pd.read_csv(folder / "comparison.csv").assign(attack=ONE_PATIENT, level="patient")
        one = one[["model", "method", "attack", "level", *(c for c in one if "s_found_at" in c)]]
        found = pd.concat([found, one], ignore_index=True)
        parts.append(statistics.add_approach_column(found).assign(seed=seed))
    rows = pd.concat(parts, ignore_index=True)
    columns = ["auc", "tpr_at_1pct_fpr", *FOUND_AT]
    for column in columns:
        rows[f"{column}_half"] = (rows[f"{column}_high"] - rows[f"{column}_low"]) / 2
    values = columns + ["members_found_at_5pct"] + [f"{column}_half" for column in columns]
    by_seed = rows.groupby(["approach", "attack", "level", "seed"], sort=False)[values].mean()
    lines = []
    for (approach, attack, level), these in by_seed.groupby(
        ["approach", "attack", "level"], sort=False
    ):
        line = {"model": approach, "attack": attack, "level": level}
        for column in columns:
            mean, half = (
                these[column].mean(),
                np.sqrt((these[f"{column}_half"] ** 2).sum()) / len(these),
            )
            low, high = np.clip([mean - half, mean + half], 0.0, 1.0)
            line |= {column: mean, f"{column}_low": low, f"{column}_high": high}
        line["members_found_at_5pct"] = these.members_found_at_5pct.mean()
        lines.append({**line, "seeds": len(these)})
    table = pd.DataFrame(lines)
    order = {name: at for at, name in enumerate(statistics.sort_approaches(table.model, sweep.own))}
    return table.sort_values(
        "model", key=lambda names: names.map(order), kind="stable", ignore_index=True
    )


def audit_table(table: pd.DataFrame, ours: str) -> pd.DataFrame:
    """A row an approach, in the order of the strongest attack by patient: the patients found at
    5 and 1 %, that attack by record and by patient, its true positive rate, and single attacks by
    record."""
    cells = table.set_index(["model", "attack", "level"])

    def shown(model: str, attack: str, level: str, column: str = "auc") -> str:
        if (model, attack, level) not in cells.index:
            return ""
        row = cells.loc[(model, attack, level)]
        return f"{row[column]:.2f} [{row[f'{column}_low']:.2f}, {row[f'{column}_high']:.2f}]"

    strongest = table[(table.attack == STRONGEST) & (table.level == "patient")].sort_values("auc")
    lines = []
    for model in strongest.model:
        line = {"approach": f"**{model}**" if model == ours else model}
        for column, title in zip(FOUND_AT, ("found at 5 %", "found at 1 %"), strict=True):
            line |= {title: shown(model, ONE_PATIENT, "patient", column)}
        line |= {"strongest, by record": shown(model, STRONGEST, "sample")}
        line |= {"strongest, by patient": shown(model, STRONGEST, "patient")}
        line |= {"TPR at 1 % FPR": shown(model, STRONGEST, "sample", "tpr_at_1pct_fpr")}
        for attack, title in (
            ("lira", "LiRA"),
            ("rmia", "RMIA"),
            ("linear_probe", "linear probe"),
            ("svc", "SVC"),
        ):
            line |= {title: shown(model, attack, "sample").split(" ")[0]}
        lines.append(line)
    return pd.DataFrame(lines)
