"""Real cohorts: `make real-results`, one run of a profile; `make results PROFILE=medpix`, its whole
sweep. Each gives measures (no record of any patient) in figures/ and a table in the docs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forget_mi import plots
from forget_mi.errors import InputError
from forget_mi.evaluation import FOUND_AT, SAME, STRONGEST, statistics
from forget_mi.plots import beyond as beyond_plots
from forget_mi.runs import ROOT, display_path, run_chain, write_table
from forget_mi.studies.beyond_tables import BEYOND, real_rows, write_beyond
from forget_mi.studies.documents import of_hundred, with_earlier_rows, write_document_table
from forget_mi.studies.results import FRONT
from forget_mi.studies.study import CAME_BACK
from forget_mi.studies.sweep import Sweep, open_sweep
from forget_mi.studies.workflow import only_shows, run_sweep

# Of the audit's attacks.csv: attack, tower, level and column, by the name that it gets here.
ATTACKS = {
    "lira_auc": ("lira", "fused", "sample", "auc"),
    "lira_patient_auc": ("lira", "fused", "patient", "auc"),
    "lira_tpr_at_1pct_fpr": ("lira", "fused", "sample", "tpr_at_1pct_fpr"),
    "u_lira_auc": ("u_lira", "fused", "sample", "auc"),
    "u_lira_patient_auc": ("u_lira", "fused", "patient", "auc"),
    "probe_auc_image": ("linear_probe", "image", "sample", "auc"),
    "probe_auc_text": ("linear_probe", "text", "sample", "auc"),
    "strongest_auc": (STRONGEST, "any", "sample", "auc"),
    "strongest_patient_auc": (STRONGEST, "any", "patient", "auc"),
}


# Their standard deviation over seeds stands beside them.
SPREAD = ("mean_gap", "lira_auc", "lira_patient_auc", "test_auc")


REAL = (
    *BEYOND,
    *(name for name in ATTACKS if name not in BEYOND),
    *(f"{name}_sd" for name in SPREAD),
    "indistinguishable",
)


# The rows of single seeds, kept beside the means: by what they are replaced, and what they hold.
SEED_KEYS = ("method", "forget_fraction", "seed")
SEED_ROWS = (
    "cohort",
    *SEED_KEYS,
    *(
        name
        for name in REAL
        if name not in ("cohort", *SEED_KEYS, "requests", "seeds", "retrain_gap")
        and not name.endswith("_sd")
    ),
)


# The cohort whose rows the README and the site's first page show.
FIRST_PAGE = "medpix"


# The columns of the docs' table.
SHOWN = {
    "mean_gap": "mean gap",
    "lira_auc": "LiRA",
    "lira_patient_auc": "by patient",
    "probe_auc_image": "probe, image",
    "probe_auc_text": "probe, text",
    "strongest_patient_auc": "strongest, by patient",
    CAME_BACK[0]: "found after training on",
    "test_auc": "test AUC",
    "share_of_retraining": "share of retraining",
}


def rebuild_real_results(profile: str, data: Path | None = None) -> None:
    """Run a profile of a real cohort (data: its folder, where the profile needs one), then rewrite
    figures/<profile>.csv (measures with intervals, no record of any patient) and its table in the
    docs. Raises InputError where the figures are those of `rebuild_real_study`."""
    if (seeds := ROOT / "figures" / f"{Path(profile).stem}_seeds.csv").is_file():
        raise InputError(
            f"profile {profile}: {display_path(seeds)} says that it is a study over seeds; "
            f"run make results PROFILE={profile}"
        )
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


def rebuild_real_study(
    profile: str, overrides: Mapping[str, Any], options: Sequence[str] = ()
) -> int:
    """Finish the sweep of a real cohort's profile, then rewrite figures/<profile>_seeds.csv
    (SEED_ROWS), figures/<profile>.csv (REAL, means over the seeds), the pictures and the table of
    the docs that are made from it, and for FIRST_PAGE the README's table. A study may be finished
    in parts: rows of seeds, sizes of request and approaches that were not asked for stay. Returns
    the exit status; with failed cells nothing is rewritten."""
    code = run_sweep(profile, None, overrides, options)
    if code == 0 and not only_shows(options):
        sweep = open_sweep(profile, None, overrides)
        figures, name = ROOT / "figures", sweep.params.profile
        path = figures / f"{name}_seeds.csv"
        by_seed = with_earlier_rows(study_by_seed(sweep), path, SEED_KEYS)
        by_seed = by_seed.sort_values(["forget_fraction", "seed"], kind="stable")
        write_table(path, by_seed)
        table = study_means(by_seed, sweep.own)
        write_table(figures / f"{name}.csv", table)
        write_beyond(table)
        plots.set_style()
        picture = beyond_plots.closeness_and_attack(largest_request(table), FRONT, sweep.own)
        picture.savefig(figures / f"{name}.png")
        write_document_table(name, real_study_rows(table, sweep.own))
        if table.forget_fraction.nunique() > 1:
            write_document_table(f"{name}_sizes", size_rows(table, sweep.own))
        if name == FIRST_PAGE:
            write_document_table("front", front_rows(table, sweep.own))
    return code


def largest_request(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest request of `study_means`."""
    return table[table.forget_fraction == table.forget_fraction.max()]


def study_by_seed(sweep: Sweep) -> pd.DataFrame:
    """SEED_ROWS from the audits of a sweep: a row an approach, size of request and seed (of a
    seed's retrained models, their mean).

    indistinguishable: 1 where the verdict on averages (notebook 04) is that the model can't be told
    from the retrained ones, else 0. share_of_retraining goes by work (records forward and
    backward), as in figures/beyond.csv. So does share_of_references: a reference model's step costs
    what the model's costs, so that the seconds of both, taken in the same minutes, say how much
    work it was.
    """
    parts = []
    for name in sweep.names():
        folder = sweep.folder / name / "04_audit"
        found = pd.read_csv(folder / "attacks.csv").set_index(["attack", "tower", "level"])
        rows = pd.read_csv(folder / "comparison.csv").set_index("model")
        for column, (*where, value) in ATTACKS.items():
            if tuple(where) in found.index:
                rows[column] = found.loc[[tuple(where)]].set_index("model")[value]
        verdicts = json.loads((folder / "outcome.json").read_text())["average"]
        rows["indistinguishable"] = pd.Series(verdicts).eq(SAME).astype(float)
        parts.append(rows.reset_index())
    rows = statistics.add_approach_column(pd.concat(parts, ignore_index=True))
    of_references = rows.share_of_references / rows.share_of_retraining * rows.share_of_work
    rows = rows.assign(
        share_of_retraining=rows.share_of_work, share_of_references=of_references
    ).drop(columns="method")
    rows = rows.rename(columns={"approach": "method"})
    means = rows.groupby([*SEED_KEYS], sort=False).mean(numeric_only=True).reset_index()
    gold = means[means.method == statistics.RETRAINED].set_index(["forget_fraction", "seed"])
    means = means.join(
        gold.test_auc.rename("retrained_test_auc"), on=["forget_fraction", "seed"]
    ).assign(cohort=sweep.params.profile)
    return means.reindex(columns=list(SEED_ROWS))


def study_means(by_seed: pd.DataFrame, ours: str) -> pd.DataFrame:
    """The columns of REAL from `study_by_seed`: a row an approach and size of request, means over
    seeds. The interval of the patients found adds up those of the seeds, whose patients differ;
    retrain_gap is that of the same seeds."""
    keys = ["method", "forget_fraction"]
    gold = by_seed[by_seed.method == statistics.RETRAINED]
    gold = gold.set_index(["forget_fraction", "seed"]).mean_gap.rename("retrain_gap")
    by_seed = by_seed.join(gold, on=["forget_fraction", "seed"])
    groups = by_seed.groupby(keys, sort=False)
    table = groups.mean(numeric_only=True).assign(seeds=groups.size(), requests=1)
    for column in SPREAD:
        table[f"{column}_sd"] = groups[column].std()
    one = "patients_found_at_5pct"
    half = ((by_seed[f"{one}_high"] - by_seed[f"{one}_low"]) / 2) ** 2
    half = np.sqrt(half.groupby([by_seed[key] for key in keys], sort=False).sum()) / groups.size()
    for end, sign in (("low", -1), ("high", 1)):
        table[f"{one}_{end}"] = (table[one] + sign * half).clip(0, 1)
    table = table.reset_index().assign(cohort=by_seed.cohort.iloc[0])
    order = {name: at for at, name in enumerate(statistics.sort_approaches(table.method, ours))}
    table = table.assign(at=table.method.map(order)).sort_values(["forget_fraction", "at"])
    return table.reindex(columns=list(REAL)).reset_index(drop=True)


def real_study_rows(table: pd.DataFrame, ours: str) -> pd.DataFrame:
    """The docs' form of `study_means`: the largest request, nearest to the retrained models
    first."""
    rows = largest_request(table).sort_values("mean_gap", kind="stable")
    return pd.DataFrame([_study_line(row, ours) for row in rows.to_dict("records")])


def size_rows(table: pd.DataFrame, ours: str) -> pd.DataFrame:
    """The docs' form of `study_means` by size of the request, the smallest first: FRONT, in this
    order."""
    part = table[table.method.isin(FRONT)]
    part = part.sort_values("method", key=lambda names: names.map(list(FRONT).index))
    part = part.sort_values("forget_fraction", kind="stable")
    return pd.DataFrame(
        [
            {"request": f"{100 * row['forget_fraction']:.0f} %", **_study_line(row, ours)}
            for row in part.to_dict("records")
        ]
    )


def _study_line(row: Mapping[str, Any], ours: str) -> dict[str, str]:
    one = "patients_found_at_5pct"
    line = {"approach": f"**{row['method']}**" if row["method"] == ours else row["method"]}
    line["found at 5 %"] = f"{row[one]:.2f} [{row[f'{one}_low']:.2f}, {row[f'{one}_high']:.2f}]"
    for column, title in SHOWN.items():
        text = "" if np.isnan(row[column]) else f"{row[column]:.{2 + (column == 'mean_gap')}f}"
        spread = row.get(f"{column}_sd", np.nan)
        line[title] = text if np.isnan(spread) else f"{text} ({spread:.3f})"
    told = row["indistinguishable"]
    line["not told apart"] = (
        "" if np.isnan(told) else f"{told * row['seeds']:.0f} of {row['seeds']}"
    )
    return line


def front_rows(table: pd.DataFrame, ours: str) -> pd.DataFrame:
    """The README's table from `study_means`: FRONT in this order, at the largest request."""
    part, lines = largest_request(table).set_index("method"), []
    for name in FRONT:
        row = part.loc[name]
        found = [row[f"patients_found_at_5pct{end}"] for end in ("", "_low", "_high")]
        lines.append(
            {
                "approach": f"**{name}**" if name == ours else name,
                "of 100 patients found, 5 of 100 strangers accused": of_hundred(*found),
                "the same after one more epoch": f"{100 * row[CAME_BACK[0]]:.0f}",
                "mean gap to retrained": f"{row.mean_gap:.3f} ({row.mean_gap_sd:.3f})",
                "strongest attack, by patient": f"{row.strongest_patient_auc:.2f}",
                "test AUC": f"{row.test_auc:.2f}",
                "share of retraining": f"{row.share_of_retraining:.2f}",
            }
        )
    return pd.DataFrame(lines)


def found_rows(comparison: pd.DataFrame) -> pd.DataFrame:
    """The columns of FOUND_AT as rows: model, measure, value, low, high."""
    rows = [
        {"model": row["model"], "measure": name, "value": row[name]}
        | {end: row[f"{name}_{end}"] for end in ("low", "high")}
        for row in comparison.to_dict("records")
        for name in FOUND_AT
    ]
    return pd.DataFrame(rows)
