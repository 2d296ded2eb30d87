"""`make results`: the chain over seeds and sizes of request, figures/results.csv, and what is made from it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from forget_mi.files import write_text
from forget_mi.pipeline import run_chain
from forget_mi.plots import loss_histograms, results_against_retrained, set_style
from forget_mi.profiles import ROOT
from forget_mi.runs import Run, open_run, write_table

# Seeds 10 to 12 were used to choose the hyper-parameters; seed 0 was also run while the demo was being timed.
SEEDS, FRACTIONS = (0, 1, 2), (0.1, 0.03)
README_COLUMNS = {
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
METHOD_NAMES = {"original": "Original", "forget_mi": "Forget-MI", "retrain": "Retrained"}


def rebuild_results(
    profile: str = "demo", seeds: Sequence[int] = SEEDS, fractions: Sequence[float] = FRACTIONS
) -> None:
    """Run the chain over seeds and fractions (models already trained are reused), then rewrite figures/results.csv,
    the figures and the README's table from it."""
    runs = [_run(profile, seed, fraction) for seed in seeds for fraction in fractions]
    results = pd.concat([pd.read_csv(run.folder / "comparison.csv") for run in runs], ignore_index=True)
    write_table(ROOT / "figures" / "results.csv", results)
    set_style()
    results_against_retrained(results).savefig(ROOT / "figures" / "results.png")
    losses = pd.read_csv(runs[0].stage("04_audit") / "losses.csv")
    shown = ["original", runs[0].unlearned_name, "retrained-1"]
    loss_histograms(losses, shown).savefig(ROOT / "figures" / "loss_histograms.png")
    write_readme_table("results", summary(results))


def _run(profile: str, seed: int, fraction: float) -> Run:
    overrides = {"seed": seed, "request.fraction": fraction}
    run = open_run(profile, f"runs/results/{profile}-seed{seed}-{100 * fraction:g}pct", overrides)
    # The original does not depend on the request: what another size of request trained is taken over.
    for other in run.folder.parent.glob(f"{profile}-seed{seed}-*pct/02_train/original"):
        if not (run.stage("02_train") / "original").exists():
            shutil.copytree(other, run.stage("02_train") / "original")
    print(f"seed {seed}, request of {fraction:.0%}", flush=True)
    return run_chain(profile, run.folder, overrides, progress=False)


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of each measure over seeds (over all retrained models of all seeds), by size of
    request and method, as text."""
    lines = []
    for fraction, part in results.groupby("forget_fraction", sort=True):
        for method, name in METHOD_NAMES.items():
            rows = part[part.method == method]
            if len(rows):
                cells = {title: _spread(rows[column]) for column, title in README_COLUMNS.items()}
                lines.append({"request": f"{fraction:.0%}", "model": name, **cells})
    return pd.DataFrame(lines)


def _spread(values: pd.Series) -> str:
    text = f"{values.mean():.2f} ({values.std():.2f})" if len(values) > 1 else f"{values.mean():.2f}"
    return without_zero(text)


def rebuild_covid_results(data: Path) -> None:
    """Run the covid profile on the collection (or a sample) at `data`, then rewrite figures/covid.csv (measures with
    intervals, no record of any patient) and the README's table from it."""
    run = run_chain("covid", overrides={"cohort.root": str(data)})
    audit = pd.read_csv(run.stage("04_audit") / "audit.csv")
    audit = audit[audit.tower == "fused"].drop(columns="tower")
    write_table(ROOT / "figures" / "covid.csv", audit)
    table = audit.pivot_table(index="model", columns="measure", values=["value", "low", "high"], sort=False)
    columns = {"mia_svc": "SVC attack", "attack_auc": "loss attack AUC", "forget_auc": "forget AUC",
               "forget_f1": "forget F1", "test_auc": "test AUC", "test_f1": "test F1"}  # fmt: skip
    lines = [
        {"model": model}
        | {
            title: without_zero(f"{row['value', name]:.2f} [{row['low', name]:.2f}, {row['high', name]:.2f}]")
            for name, title in columns.items()
        }
        for model, row in table.iterrows()
    ]
    write_readme_table("covid", pd.DataFrame(lines))


def without_zero(text: str) -> str:
    """.5 for 0.5, as the README's tables have it."""
    return re.sub(r"\b0\.", ".", text)


def write_readme_table(marker: str, table: pd.DataFrame) -> None:
    """Put a table between two of the README's markers."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in table.itertuples(index=False)]
    path = ROOT / "README.md"
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, rest = path.read_text().split(begin)
    after = rest.split(end)[1]
    write_text(path, f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}")
