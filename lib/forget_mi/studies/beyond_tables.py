"""figures/beyond.csv, and the tables and pictures that are made from the studies past the paper."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from forget_mi import plots
from forget_mi.evaluation import statistics
from forget_mi.models import read_manifest
from forget_mi.plots import beyond as beyond_plots
from forget_mi.runs import ROOT, Run, write_table
from forget_mi.studies import beyond
from forget_mi.studies.documents import with_earlier_rows, write_document_table
from forget_mi.studies.sweep import Sweep

BEYOND = (
    "cohort",
    "method",
    "forget_fraction",
    "requests",
    "seeds",
    "patients_found_at_5pct",
    "patients_found_at_5pct_low",
    "patients_found_at_5pct_high",
    "patients_found_at_1pct",
    "found_after_training_on",
    "lira_after_training_on",
    "mean_gap",
    "retrain_gap",
    "lira_auc",
    "lira_patient_auc",
    "lira_tpr_at_1pct_fpr",
    "other_study_auc",
    "original_other_study_auc",
    "klom_forget_mean",
    "klom_forget_floor",
    "test_auc",
    "retrained_test_auc",
    "share_of_retraining",
    "share_of_references",
    "one_off_trainings",
    "iam_median",
    "reference_lira_before",
    "reference_lira_after",
)


def rebuild_beyond(sweep: Sweep) -> None:
    """figures/beyond.csv and the tables and pictures beside it, from the parts that `make beyond`
    left; the README's table of it."""
    figures, folder = ROOT / "figures", sweep.folder / "beyond"
    tables = {
        part: pd.concat(
            [pd.read_csv(path) for path in sorted(folder.glob(f"{part}-*.csv"))], ignore_index=True
        )
        for part in beyond.PARTS
    }
    for part in beyond.PARTS[1:]:
        timeless = tables[part].drop(columns="seconds", errors="ignore")
        write_table(figures / f"beyond_{part}.csv", timeless)
    table = beyond_table(tables, sweep.params.cohort["source"], sweep.params.profile)
    write_beyond(table)
    plots.set_style()
    beyond_plots.frontier(tables["frontier"]).savefig(figures / "beyond.png")
    beyond_plots.training_on(tables["training_on"]).savefig(figures / "beyond_training_on.png")
    write_document_table("training_on", training_on_rows(tables["training_on"]))
    beyond_plots.request_sequence(tables["sequence"]).savefig(figures / "beyond_sequence.png")
    write_document_table("beyond", beyond_rows(table))
    rebuild_ways_out(tables["ways_out"])


def rebuild_ways_out(table: pd.DataFrame) -> None:
    """The picture and the docs' table of the three ways out."""
    beyond_plots.ways_out(table).savefig(ROOT / "figures" / "beyond_ways_out.png")
    write_document_table("ways_out", ways_out_rows(table))


def ways_out_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A row a way and size of request: means over seeds and retrained models."""
    keys = ["request", "way", "approach"]
    means = table.groupby(keys, sort=False).mean(numeric_only=True).reset_index()
    said = table.groupby(keys, sort=False).guarantee.first().reset_index(drop=True)
    asked = dict.fromkeys(table.request)
    order = means.request.map({name: place for place, name in enumerate(asked)})
    lines = [
        {
            "request": row.request,
            "way": row.way,
            "model": row.approach,
            "guarantee": guarantee,
            "trainings before": f"{row.trainings_before:.2f}",
            "share of retraining": _unless_nan(row.share_of_retraining, 3),
            "a year of 52": _unless_nan(row.trainings_a_year, 1),
            "test AUC": f"{row.test_auc:.3f}",
            "mean gap": f"{row.mean_gap:.3f}",
            "found at 5 %": f"{row.patients_found_at_5pct:.2f}",
            "LiRA": f"{row.lira_auc:.2f}",
            "LiRA by patient": f"{row.lira_patient_auc:.2f}",
        }
        for row, guarantee in zip(means.itertuples(), said, strict=True)
    ]
    return pd.DataFrame(lines).iloc[np.argsort(order, kind="stable")]


def _unless_nan(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def write_beyond(rows: pd.DataFrame) -> None:
    """Put rows into figures/beyond.csv in place of those of the same cohorts; the cohorts keep
    their order."""
    path = ROOT / "figures" / "beyond.csv"
    there = pd.read_csv(path) if path.is_file() else rows.iloc[:0]
    both = with_earlier_rows(rows, path, ["cohort"])
    order = {name: at for at, name in enumerate(pd.concat([there.cohort, rows.cohort]).unique())}
    both = both.sort_values("cohort", key=lambda names: names.map(order), kind="stable")
    write_table(path, both.reindex(columns=list(BEYOND)))


def real_rows(run: Run, comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of figures/beyond.csv that a run of a real cohort gives: one seed, one request, no
    judging models."""
    rows = statistics.add_approach_column(comparison)
    means = (
        rows.groupby(["approach", "forget_fraction"], sort=False)
        .mean(numeric_only=True)
        .reset_index()
    )
    gold = rows[rows.approach == statistics.RETRAINED]
    seconds = [
        read_manifest(run.stage("02_train") / name)["seconds"] for name in run.reference_seeds()
    ]
    taught = means.share_of_references > 0
    means["one_off_trainings"] = np.where(taught, sum(seconds) / gold.seconds.mean(), 0.0)
    means = means.rename(columns={"approach": "method"}).assign(
        cohort=run.params.profile, requests=1, seeds=1
    )
    means = means.assign(retrain_gap=gold.mean_gap.mean(), retrained_test_auc=gold.test_auc.mean())
    return means.reindex(columns=list(BEYOND))


def beyond_table(tables: Mapping[str, pd.DataFrame], source: str, profile: str) -> pd.DataFrame:
    """figures/beyond.csv: a row a method, size of request and number of requests, means over seeds;
    the original's and the retrained models' rows come first."""
    requests = tables["requests"].assign(requests=1)
    last = tables["sequence"].groupby(["approach", "seed"], as_index=False).last()
    rows = pd.concat(
        [requests, last.assign(requests=beyond.REQUESTS_IN_A_ROW).drop(columns="request")]
    )
    keys = ["approach", "forget_fraction", "requests"]
    means = rows.groupby(keys, sort=False).mean(numeric_only=True).drop(columns="seed")
    means["seeds"] = rows.groupby(keys, sort=False).seed.nunique()
    table = means.reset_index()
    gold = requests[requests.approach == "retrained"].groupby("forget_fraction")
    table["retrain_gap"] = table.forget_fraction.map(gold.mean_gap.mean())
    table["retrained_test_auc"] = table.forget_fraction.map(gold.test_auc.mean())
    other = tables["other"].groupby(["approach", "forget_fraction"]).other_study_auc.mean()
    many = tables["many"].set_index("approach")
    largest = table.forget_fraction.max()
    for at, row in table.iterrows():
        if row.forget_fraction != largest or row.requests != 1:
            continue
        table.loc[at, "other_study_auc"] = other.get((row.approach, largest), np.nan)
        table.loc[at, "original_other_study_auc"] = other["original", largest]
        for column in ("klom_forget_mean", "klom_forget_floor"):
            table.loc[at, column] = many[column].get(row.approach, np.nan)
    table = table.rename(columns={"approach": "method"}).assign(
        cohort=profile if source == "synthetic" else source
    )
    # What a part made by an earlier version does not say stays empty.
    return table.reindex(columns=list(BEYOND)).sort_values(
        ["requests", "forget_fraction"], kind="stable", ignore_index=True
    )


def training_on_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The docs' form of figures/beyond_training_on.csv: means over seeds and retrained models."""
    rows = table[table.learned != "in part"]
    keys = ["learned", "optimizer", "approach", "epochs"]
    columns = ["found_after_training_on", "lira_after_training_on"]
    means = rows.groupby(keys, sort=False)[columns].mean().reset_index()
    lines = []
    for key, part in means.groupby(keys[:3], sort=False):
        cells = dict(zip(("learned", "optimiser", "model"), key, strict=True))
        for row in part.itertuples():
            cells[f"{row.epochs:g} epochs"] = (
                f"{row.lira_after_training_on:.2f}, {row.found_after_training_on:.2f}"
            )
        lines.append(cells)
    return pd.DataFrame(lines)


def beyond_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The README's form of figures/beyond.csv: the methods that are compared here, nearest first
    within each size."""
    lines = []
    order = table.sort_values(["requests", "forget_fraction", "mean_gap"], kind="stable")
    for row in order.itertuples():
        gap = row.retrain_gap if row.method == "retrained" else row.mean_gap
        cells = {
            "requests": f"{row.requests} x {100 * row.forget_fraction / row.requests:.3g}%",
            "method": f"**{row.method}**" if row.method == "held_out_targets" else row.method,
            "found at 5 %": ""
            if np.isnan(row.patients_found_at_5pct)
            else f"{row.patients_found_at_5pct:.2f} [{row.patients_found_at_5pct_low:.2f}, "
            f"{row.patients_found_at_5pct_high:.2f}]",
            "mean gap": f"{gap:.3f}",
            "LiRA": f"{row.lira_auc:.2f}",
            "by patient": f"{row.lira_patient_auc:.2f}",
            "after training on": ""
            if np.isnan(row.lira_after_training_on)
            else f"{row.lira_after_training_on:.2f}",
            "TPR at 1 % FPR": f"{row.lira_tpr_at_1pct_fpr:.3f}",
            "test AUC": f"{row.test_auc:.3f}",
            "other study": "" if np.isnan(row.other_study_auc) else f"{row.other_study_auc:.2f}",
            "KLOM": "" if np.isnan(row.klom_forget_mean) else f"{row.klom_forget_mean:.2f}",
            "share of retraining": ""
            if np.isnan(row.share_of_retraining)
            else f"{row.share_of_retraining:.3f}",
            "references beside": f"{row.share_of_references:.3f}"
            if row.share_of_references > 0
            else "",
        }
        lines.append(cells)
    return pd.DataFrame(lines)
