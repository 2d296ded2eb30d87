"""`make results`: the whole sweep, figures/results.csv, and the figures and tables that are made
from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from forget_mi import plots
from forget_mi.evaluation import CLOSENESS, STRONGEST, statistics
from forget_mi.runs import ROOT, write_table
from forget_mi.studies.audit_tables import rebuild_audit
from forget_mi.studies.beyond_tables import rebuild_beyond
from forget_mi.studies.documents import of_hundred, write_document_table
from forget_mi.studies.sweep import Sweep, open_sweep
from forget_mi.studies.workflow import only_shows, open_beyond_sweep, run_beyond, run_sweep

COLUMNS = {
    "patients_found_at_5pct": "found at 5 %",
    "mia_svc_image": "SVC attack, image",
    "mia_svc_fused": "SVC attack, fused",
    "attack_auc": "loss attack AUC",
    "forget_auc": "forget AUC",
    "forget_f1": "forget F1",
    "test_auc": "test AUC",
    "test_f1": "test F1",
    "mean_gap": "mean gap",
    "lira_after_training_on": "LiRA after training on",
    "share_of_retraining": "share of retraining",
}


TITLES = {"mia_svc_fused": "SVC attack", "attack_auc": "loss attack", "forget_auc": "forget AUC",
          "forget_f1": "forget F1", "test_auc": "test AUC", "test_f1": "test F1"}  # fmt: skip


def rebuild_results(profile: str = "demo", options: Sequence[str] = ()) -> int:
    """Finish the sweep and the studies past the paper (what is there and still valid is kept), then
    rewrite figures/results.csv, figures/beyond.csv, the figures and the tables of README and docs
    from them. Returns the exit status; with failed cells nothing is rewritten."""
    code = run_sweep(profile, None, {}, options)
    if code == 0:
        sweep = open_sweep(profile)
        rebuild_from(sweep, pd.read_csv(sweep.folder / "comparison.csv"))
        code = finish_beyond(profile, {}, options)
    return code


def finish_beyond(profile: str, overrides: Mapping[str, Any], options: Sequence[str] = ()) -> int:
    """Finish the studies past the paper, then rewrite figures/beyond.csv and what is made from it.
    Returns the exit status."""
    code = run_beyond(profile, overrides, options)
    if code == 0 and not only_shows(options):
        rebuild_beyond(open_beyond_sweep(profile, overrides))
    return code


def rebuild_from(sweep: Sweep, results: pd.DataFrame) -> None:
    """figures/results.csv, the pictures and the tables of README and docs from a sweep's
    comparison."""
    figures, ours = ROOT / "figures", sweep.own
    rows = statistics.add_approach_column(results)
    write_table(figures / "results.csv", results)
    plots.set_style()
    gaps = statistics.gaps_to_retrained(results, list(TITLES))
    plots.gaps_by_measure(gaps, TITLES, first=ours).savefig(figures / "gaps.png")
    plots.forgetting_against_usefulness(results, first=ours).savefig(
        figures / "forgetting_and_usefulness.png"
    )
    plots.cost_against_closeness(results, first=ours).savefig(figures / "cost_and_closeness.png")
    curves = {"mean_gap": "mean gap", **TITLES}
    plots.curves_over_requests(results, curves, first=ours).savefig(figures / "requests.png")
    largest = f"seed{sweep.grid.seeds[0]}-{100 * max(sweep.grid.fractions):g}pct"
    losses = pd.read_csv(sweep.folder / largest / "04_audit" / "losses.csv")
    plots.loss_histograms(losses, ["original", ours, "retrained-1"]).savefig(
        figures / "loss_histograms.png"
    )
    main = results[rows.approach.isin([statistics.ORIGINAL, ours, statistics.RETRAINED])]
    write_document_table("results", statistics.summary(main, COLUMNS, ours).reset_index())
    write_document_table("approaches", approaches_table(results, ours))
    audit = rebuild_audit(sweep)
    write_document_table("overview", overview_table(results, audit, ours))


def approaches_table(results: pd.DataFrame, ours: str) -> pd.DataFrame:
    """A row an approach, over all sizes of request and seeds, nearest to the retrained models
    first: signed gaps, mean gap, how much larger than the default's it is with its interval, mean
    rank, share of retraining, and whether test AUC stayed within .02 of the retrained models'."""
    rows = statistics.add_approach_column(results)
    gaps = statistics.gaps_to_retrained(results, list(CLOSENESS))
    means = gaps.pivot_table(index="approach", columns="measure", values="gap")
    spread = (
        gaps[gaps.approach == statistics.RETRAINED]
        .groupby("measure")
        .gap.agg(lambda gap: gap.abs().mean())
    )
    differences = statistics.paired_differences(results, ours).set_index("approach")
    ranks = statistics.mean_ranks(results).set_index("approach").mean_rank
    mean_gap = rows.groupby("approach").mean_gap.agg(["mean", "std"])
    found = found_over_seeds(rows)
    share = rows.groupby("approach").share_of_retraining.mean()
    lines = []
    for approach in mean_gap.sort_values("mean").index:
        retrained = approach == statistics.RETRAINED
        line = {"approach": f"**{approach}**" if approach == ours else approach}
        line["found at 5 %"] = _share(found.loc[approach])
        for measure in CLOSENESS:
            title = "gap in " + COLUMNS[measure].removesuffix(", fused")
            line[title] = (
                f"±{spread[measure]:.2f}" if retrained else f"{means.loc[approach, measure]:+.2f}"
            )
        line["mean gap"] = (
            f"{mean_gap.loc[approach, 'mean']:.3f} ({mean_gap.loc[approach, 'std']:.3f})"
        )
        line["against the default [95 %]"] = ""
        if approach in differences.index:
            d = differences.loc[approach]
            line["against the default [95 %]"] = (
                f"{d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
            )
        line["mean rank"] = f"{ranks[approach]:.1f}" if approach in ranks else ""
        line["share of retraining"] = f"{share[approach]:.2f}"
        line["keeps test AUC"] = (
            "yes" if retrained or means.loc[approach, "test_auc"] >= -0.02 else "no"
        )
        lines.append(line)
    return pd.DataFrame(lines)


def found_over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """By approach, the share of forgotten patients that is found at 5 %: mean over requests and
    seeds, low, high. The interval adds up those of the requests of one size, whose patients differ
    by seed; requests of several sizes to one model share patients, and their intervals are
    averaged."""
    column = "patients_found_at_5pct"
    half = (rows[f"{column}_high"] - rows[f"{column}_low"]) / 2
    one = rows.assign(half=half).groupby(["approach", "forget_fraction", "seed"])
    by_seed = one[[column, "half"]].mean().reset_index()
    sizes = by_seed.groupby(["approach", "forget_fraction"])
    by_size = sizes.agg(mean=(column, "mean"), n=("half", "size"), square=("half", _squares))
    by_size["half"] = np.sqrt(by_size.square) / by_size.n
    found = by_size.groupby("approach")[["mean", "half"]].mean()
    low, high = (found["mean"] - found.half).clip(0), (found["mean"] + found.half).clip(upper=1)
    return found.assign(low=low, high=high)


def _squares(values: pd.Series) -> float:
    return float((values**2).sum())


def _share(row: pd.Series) -> str:
    return f"{row['mean']:.2f} [{row.low:.2f}, {row.high:.2f}]"


FRONT = (
    "original",
    "fine_tune",
    "scrub-last",
    "salun",
    "forget_mi-multimodal",
    "held_out_targets",
    "retrained",
)


def overview_table(results: pd.DataFrame, audit: pd.DataFrame, ours: str) -> pd.DataFrame:
    """The first table of docs/results.md: FRONT in this order, over all sizes of request and seeds;
    the attack over the largest one."""
    rows = statistics.add_approach_column(results)
    means = rows.groupby("approach")[
        ["mean_gap", "forget_auc", "test_auc", "share_of_retraining"]
    ].mean()
    strongest = (
        audit[(audit.attack == STRONGEST) & (audit.level == "patient")].set_index("model").auc
    )
    lines, found = [], found_over_seeds(rows)
    for name in FRONT:
        line = {"approach": f"**{name}**" if name == ours else name}
        line["of 100 patients found, 5 of 100 strangers accused"] = of_hundred(
            *found.loc[name, ["mean", "low", "high"]]
        )
        line["mean gap to retrained"] = f"{means.mean_gap[name]:.3f}"
        line["strongest attack, by patient"] = f"{strongest[name]:.2f}"
        line["forget AUC"], line["test AUC"] = (
            f"{means.forget_auc[name]:.2f}",
            f"{means.test_auc[name]:.2f}",
        )
        line["share of retraining"] = f"{means.share_of_retraining[name]:.2f}"
        lines.append(line)
    return pd.DataFrame(lines)
