"""`make results`: the whole sweep, figures/results.csv, and the figures and README tables that are made from it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from forget_mi import plots
from forget_mi.data.requests import draw_request
from forget_mi.evaluation import attack_table as evaluate
from forget_mi.evaluation import statistics
from forget_mi.evaluation.comparison import CLOSENESS
from forget_mi.files import write_text
from forget_mi.plots import audit as audit_plots
from forget_mi.requests.serve import drift, serve
from forget_mi.requests.served_model import ServedModel
from forget_mi.runs.chain import run_chain
from forget_mi.runs.project import ROOT, write_table
from forget_mi.studies.beyond_tables import real_rows, write_beyond
from forget_mi.studies.documents import write_readme_table
from forget_mi.studies.sweep import Sweep, open_sweep
from forget_mi.studies.workflow import run_beyond, run_sweep

COLUMNS = {
    "mia_svc_image": "SVC attack, image",
    "mia_svc_fused": "SVC attack, fused",
    "attack_auc": "loss attack AUC",
    "forget_auc": "forget AUC",
    "forget_f1": "forget F1",
    "test_auc": "test AUC",
    "test_f1": "test F1",
    "mean_gap": "mean gap",
    "share_of_retraining": "share of retraining",
}


TITLES = {"mia_svc_fused": "SVC attack", "attack_auc": "loss attack", "forget_auc": "forget AUC",
          "forget_f1": "forget F1", "test_auc": "test AUC", "test_f1": "test F1"}  # fmt: skip


DRIFT = {"attack_auc": "loss attack, this request", "earlier_auc": "loss attack, earlier requests",
         "test_auc": "test AUC", "retain_auc": "retain AUC"}  # fmt: skip


TIMES = ("seconds", "share_of_retraining", "share_of_references")


def rebuild_results(profile: str = "demo", options: Sequence[str] = ()) -> int:
    """Finish the sweep and the studies past the paper (what is there and still valid is kept), then rewrite
    figures/results.csv, figures/beyond.csv, the figures and the README's tables from them. Returns the exit status;
    with failed cells nothing is rewritten."""
    code = run_sweep(profile, None, {}, options)
    if code == 0:
        sweep = open_sweep(profile)
        rebuild_from(sweep, pd.read_csv(sweep.folder / "comparison.csv"))
        code = run_beyond(profile, {}, options)
    return code


def rebuild_from(sweep: Sweep, results: pd.DataFrame) -> None:
    """figures/results.csv, the pictures and the README's tables from a sweep's comparison."""
    figures, ours = ROOT / "figures", sweep.own
    rows = statistics.with_approach(results)
    write_table(figures / "results.csv", results)
    plots.set_style()
    gaps = statistics.gaps_to_retrained(results, list(TITLES))
    plots.gaps_by_measure(gaps, TITLES, first=ours).savefig(figures / "gaps.png")
    plots.forgetting_against_usefulness(results, first=ours).savefig(figures / "forgetting_and_usefulness.png")
    plots.cost_against_closeness(results, first=ours).savefig(figures / "cost_and_closeness.png")
    curves = {"mean_gap": "mean gap", **TITLES}
    plots.curves_over_requests(results, curves, first=ours).savefig(figures / "requests.png")
    largest = f"seed{sweep.grid.seeds[0]}-{100 * max(sweep.grid.fractions):g}pct"
    losses = pd.read_csv(sweep.folder / largest / "04_audit" / "losses.csv")
    plots.loss_histograms(losses, ["original", ours, "retrained-1"]).savefig(figures / "loss_histograms.png")
    everyone = [name for name in statistics.order_of(rows.approach, ours) if name != statistics.RETRAINED]
    plots.loss_histograms(losses, [*everyone, "retrained-1"]).savefig(figures / "loss_histograms_all.png")
    main = results[rows.approach.isin([statistics.ORIGINAL, ours, statistics.RETRAINED])]
    write_readme_table("results", statistics.summary(main, COLUMNS, ours).reset_index())
    write_readme_table("approaches", approaches_table(results, ours))
    rebuild_audit(sweep)


def rebuild_audit(sweep: Sweep) -> None:
    """figures/audit.csv, its picture and the README's table from the audits of the sweep's largest requests."""
    table = audit_over_seeds(sweep)
    write_table(ROOT / "figures" / "audit.csv", table)
    plots.set_style()
    audit_plots.attacks_by_approach(table, first=sweep.own).savefig(ROOT / "figures" / "audit.png")
    write_readme_table("audit", audit_table(table, sweep.own))


def audit_over_seeds(sweep: Sweep) -> pd.DataFrame:
    """Every attack on the fused prediction, and the strongest on any, for every approach, over the seeds of the sweep's
    largest request: model, attack, level, auc, auc_low, auc_high, tpr_at_1pct_fpr, and that with _low and _high, seeds.

    A row is the mean over seeds (of a seed's retrained models, their mean). Its interval adds up the seeds' own, which
    come from different requests; models of one seed are judged on the same patients, and their intervals averaged.
    """
    largest = max(sweep.grid.fractions)
    parts = []
    for seed in sweep.grid.seeds:
        folder = sweep.folder / f"seed{seed}-{100 * largest:g}pct" / "04_audit"
        methods = pd.read_csv(folder / "comparison.csv")[["model", "method"]]
        found = pd.read_csv(folder / "attacks.csv").merge(methods, on="model")
        found = found[found.tower.isin(["fused", "any"])]
        parts.append(statistics.with_approach(found).assign(seed=seed))
    rows = pd.concat(parts, ignore_index=True)
    columns = ["auc", "tpr_at_1pct_fpr"]
    for column in columns:
        rows[f"{column}_half"] = (rows[f"{column}_high"] - rows[f"{column}_low"]) / 2
    values = columns + [f"{column}_half" for column in columns]
    by_seed = rows.groupby(["approach", "attack", "level", "seed"], sort=False)[values].mean()
    lines = []
    for (approach, attack, level), these in by_seed.groupby(["approach", "attack", "level"], sort=False):
        line = {"model": approach, "attack": attack, "level": level}
        for column in columns:
            mean, half = these[column].mean(), np.sqrt((these[f"{column}_half"] ** 2).sum()) / len(these)
            low, high = max(mean - half, 0.0), min(mean + half, 1.0)
            line |= {column: mean, f"{column}_low": low, f"{column}_high": high}
        lines.append({**line, "seeds": len(these)})
    table = pd.DataFrame(lines)
    order = {name: at for at, name in enumerate(statistics.order_of(table.model, sweep.own))}
    return table.sort_values("model", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def audit_table(table: pd.DataFrame, ours: str) -> pd.DataFrame:
    """A row an approach, in the order of the strongest attack by patient: that attack by record and by patient, its
    true positive rate, and single attacks by record."""
    cells = table.set_index(["model", "attack", "level"])

    def shown(model: str, attack: str, level: str, column: str = "auc") -> str:
        if (model, attack, level) not in cells.index:
            return ""
        row = cells.loc[(model, attack, level)]
        return f"{row[column]:.2f} [{row[f'{column}_low']:.2f}, {row[f'{column}_high']:.2f}]"

    strongest = table[(table.attack == evaluate.STRONGEST) & (table.level == "patient")].sort_values("auc")
    lines = []
    for model in strongest.model:
        line = {"approach": f"**{model}**" if model == ours else model}
        line |= {"strongest, by record": shown(model, evaluate.STRONGEST, "sample")}
        line |= {"strongest, by patient": shown(model, evaluate.STRONGEST, "patient")}
        line |= {"found at 1 % FPR": shown(model, evaluate.STRONGEST, "sample", "tpr_at_1pct_fpr")}
        for attack, title in (("lira", "LiRA"), ("rmia", "RMIA"), ("linear_probe", "linear probe"), ("svc", "SVC")):
            line |= {title: shown(model, attack, "sample").split(" ")[0]}
        lines.append(line)
    return pd.DataFrame(lines)


REQUESTS, SHARE = 10, 0.01


# Requests in a row by held-out targets are one of the studies past the paper.
DRIFTING = {"unlearning": {"method": "forget_mi", "setting": "multimodal", "tuned": "demo"}}


def rebuild_drift(profile: str = "demo") -> None:
    """Ten requests of 1 % each, one after another, to a profile's model by Forget-MI (in runs/drift/<profile>, made
    anew); then figures/drift.csv and its picture."""
    folder = ROOT / "runs" / "drift" / profile
    shutil.rmtree(folder / "requests", ignore_errors=True)
    run_chain(profile, folder, DRIFTING, ["01_cohort", "02_train"], progress=False)
    served = ServedModel(folder)
    for number in range(len(served.ledger), REQUESTS):
        asked = draw_request(served.cohort(), SHARE, seed=number)
        path = folder / f"request-{number + 1:03d}.csv"
        write_text(path, "subject_id\n" + "\n".join(asked.patients) + "\n")
        serve(folder, path, progress=False)
    table = drift(folder)
    kept = [name for name in table if table[name].notna().any() and name not in TIMES]
    write_table(ROOT / "figures" / "drift.csv", table[kept])
    plots.set_style()
    audit_plots.drift_curves({served.ledger[0]["approach"]: table}, DRIFT).savefig(ROOT / "figures" / "drift.png")


def approaches_table(results: pd.DataFrame, ours: str) -> pd.DataFrame:
    """A row an approach, over all sizes of request and seeds, nearest to the retrained models first: signed gaps, mean
    gap, how much larger than the default's it is with its interval, mean rank, share of retraining, and whether test
    AUC stayed within .02 of the retrained models'."""
    rows = statistics.with_approach(results)
    gaps = statistics.gaps_to_retrained(results, list(CLOSENESS))
    means = gaps.pivot_table(index="approach", columns="measure", values="gap")
    spread = gaps[gaps.approach == statistics.RETRAINED].groupby("measure").gap.agg(lambda gap: gap.abs().mean())
    differences = statistics.paired_differences(results, ours).set_index("approach")
    ranks = statistics.mean_ranks(results).set_index("approach").mean_rank
    mean_gap = rows.groupby("approach").mean_gap.agg(["mean", "std"])
    share = rows.groupby("approach").share_of_retraining.mean()
    lines = []
    for approach in mean_gap.sort_values("mean").index:
        retrained = approach == statistics.RETRAINED
        line = {"approach": f"**{approach}**" if approach == ours else approach}
        for measure in CLOSENESS:
            title = "gap in " + COLUMNS[measure].removesuffix(", fused")
            line[title] = f"±{spread[measure]:.2f}" if retrained else f"{means.loc[approach, measure]:+.2f}"
        line["mean gap"] = f"{mean_gap.loc[approach, 'mean']:.3f} ({mean_gap.loc[approach, 'std']:.3f})"
        line["against the default [95 %]"] = ""
        if approach in differences.index:
            d = differences.loc[approach]
            line["against the default [95 %]"] = f"{d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
        line["mean rank"] = f"{ranks[approach]:.1f}" if approach in ranks else ""
        line["share of retraining"] = f"{share[approach]:.2f}"
        line["keeps test AUC"] = "yes" if retrained or means.loc[approach, "test_auc"] >= -0.02 else "no"
        lines.append(line)
    return pd.DataFrame(lines)


def rebuild_real_results(profile: str, data: Path | None = None) -> None:
    """Run a profile of a real cohort (data: its folder, where the profile needs one), then rewrite
    figures/<profile>.csv (measures with intervals, no record of any patient) and the README's table from it."""
    run = run_chain(profile, overrides={} if data is None else {"cohort.root": str(data)})
    audit = pd.read_csv(run.stage("04_audit") / "audit.csv")
    audit = audit[audit.tower == "fused"].drop(columns="tower")
    write_table(ROOT / "figures" / f"{profile}.csv", audit)
    table = audit.pivot_table(index="model", columns="measure", values=["value", "low", "high"], sort=False)
    comparison = pd.read_csv(run.folder / "comparison.csv")
    if run.needs_references:
        write_beyond(real_rows(run, comparison))
    share = comparison.set_index("model").share_of_retraining
    columns = {"mia_svc": "SVC attack", "attack_auc": "loss attack AUC", "forget_auc": "forget AUC",
               "forget_f1": "forget F1", "test_auc": "test AUC", "test_f1": "test F1"}  # fmt: skip
    lines = [
        {"model": model}
        | {title: f"{row['value', m]:.2f} [{row['low', m]:.2f}, {row['high', m]:.2f}]" for m, title in columns.items()}
        | {"share of retraining": f"{share[model]:.2f}"}
        for model, row in table.iterrows()
    ]
    write_readme_table(profile, pd.DataFrame(lines))
