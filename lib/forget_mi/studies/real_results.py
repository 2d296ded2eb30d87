"""`make real-results`: a profile of a real cohort, its measures and its table in the docs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from forget_mi.evaluation import FOUND_AT
from forget_mi.runs import ROOT, run_chain, write_table
from forget_mi.studies.beyond_tables import real_rows, write_beyond
from forget_mi.studies.documents import write_document_table


def rebuild_real_results(profile: str, data: Path | None = None) -> None:
    """Run a profile of a real cohort (data: its folder, where the profile needs one), then rewrite
    figures/<profile>.csv (measures with intervals, no record of any patient) and its table in the
    docs."""
    run = run_chain(profile, overrides={} if data is None else {"cohort.root": str(data)})
    audit = pd.read_csv(run.stage("04_audit") / "audit.csv")
    audit = audit[audit.tower == "fused"].drop(columns="tower")
    comparison = pd.read_csv(run.folder / "comparison.csv")
    audit = pd.concat([audit, found_rows(comparison)], ignore_index=True)
    write_table(ROOT / "figures" / f"{profile}.csv", audit)
    table = audit.pivot_table(
        index="model", columns="measure", values=["value", "low", "high"], sort=False
    )
    if run.needs_references:
        write_beyond(real_rows(run, comparison))
    share = comparison.set_index("model").share_of_retraining
    columns = {
        "patients_found_at_5pct": "found at 5 %",
        "mia_svc": "SVC attack",
        "attack_auc": "loss attack AUC",
        "forget_auc": "forget AUC",
        "forget_f1": "forget F1",
        "test_auc": "test AUC",
        "test_f1": "test F1",
    }
    lines = [
        {"model": model}
        | {
            title: f"{row['value', m]:.2f} [{row['low', m]:.2f}, {row['high', m]:.2f}]"
            for m, title in columns.items()
        }
        | {"share of retraining": f"{share[model]:.2f}"}
        for model, row in table.iterrows()
    ]
    write_document_table(profile, pd.DataFrame(lines))


def found_rows(comparison: pd.DataFrame) -> pd.DataFrame:
    """The columns of FOUND_AT as rows: model, measure, value, low, high."""
    rows = [
        {"model": row["model"], "measure": name, "value": row[name]}
        | {end: row[f"{name}_{end}"] for end in ("low", "high")}
        for row in comparison.to_dict("records")
        for name in FOUND_AT
    ]
    return pd.DataFrame(rows)
