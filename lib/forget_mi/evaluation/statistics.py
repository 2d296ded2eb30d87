"""What a grid of runs says: means and spreads over seeds, paired differences with intervals,
ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

ORIGINAL, RETRAINED = "original", "retrained"


def add_approach_column(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of comparison.csv with a column `approach`: original, retrained (all of them), or
    the model's name."""
    names = comparison.method.map({"original": ORIGINAL, "retrain": RETRAINED}).fillna(
        comparison.model
    )
    return comparison.assign(approach=names)


def sort_approaches(approaches: Sequence[str], first: str | None = None) -> list[str]:
    """The original, then `first`, then the other approaches by name, then the retrained models."""
    others = sorted(set(approaches) - {ORIGINAL, RETRAINED, first})
    return [name for name in [ORIGINAL, first, *others, RETRAINED] if name in set(approaches)]


def summary(
    comparison: pd.DataFrame, columns: Mapping[str, str], first: str | None = None
) -> pd.DataFrame:
    """Mean and standard deviation over seeds (over all retrained models of all seeds) as text,
    '0.46 (0.06)', by size of request and approach.

    columns: of the comparison, to their titles. One value alone has no spread. Index: request,
    approach.
    """
    rows = add_approach_column(comparison)
    lines = {}
    for fraction, part in rows.groupby("forget_fraction", sort=True):
        for approach in sort_approaches(part.approach, first):
            these = part[part.approach == approach]
            lines[f"{100 * fraction:.3g}%", approach] = {
                title: _spread(these[c]) for c, title in columns.items()
            }
    table = pd.DataFrame(lines).T
    table.index.names = ["request", "approach"]
    return table


def _spread(values: pd.Series) -> str:
    return (
        f"{values.mean():.2f} ({values.std():.2f})" if len(values) > 1 else f"{values.mean():.2f}"
    )


def gaps_to_retrained(comparison: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Signed difference of each model to the mean of the retrained models of its own run, a row a
    model and measure: approach, forget_fraction, seed, measure, gap. A retrained model is compared
    with the others of its run; where there is no other, its gap is NaN."""
    rows = add_approach_column(comparison).reset_index(drop=True)
    rows["row"] = rows.index
    long = rows.melt(["row", "approach", "forget_fraction", "seed"], list(measures), "measure")
    run = ["forget_fraction", "seed", "measure"]
    retrained = long[long.approach == RETRAINED].groupby(run).value.agg(["sum", "count"])
    long = long.join(retrained, on=run)
    own = (long.approach == RETRAINED).astype(int)
    others = (long["count"] - own).where(lambda n: n > 0)
    long["gap"] = long.value - (long["sum"] - own * long.value) / others
    return long.drop(columns=["row", "value", "sum", "count"])


def paired_differences(
    comparison: pd.DataFrame, reference: str, column: str = "mean_gap", level: float = 0.95
) -> pd.DataFrame:
    """How much larger a column is for each approach than for `reference`, on the same seeds and
    requests.

    The differences of a seed are averaged over its requests (they share an original model, so they
    are not independent); difference, low, high: mean over seeds and Student's t interval. With one
    seed there is no interval (NaN). Columns: approach, seeds, difference, low, high; sorted by
    difference.
    """
    rows = add_approach_column(comparison)
    rows = rows[~rows.approach.isin([ORIGINAL, RETRAINED])]
    values = rows.pivot_table(index=["seed", "forget_fraction"], columns="approach", values=column)
    lines = []
    for approach in values.columns.drop(reference, errors="ignore"):
        if reference not in values:
            break
        by_seed = (values[approach] - values[reference]).groupby("seed").mean().dropna()
        n = len(by_seed)
        half = (
            stats.t.ppf((1 + level) / 2, n - 1) * by_seed.std(ddof=1) / np.sqrt(n)
            if n > 1
            else float("nan")
        )
        mean = by_seed.mean()
        lines.append(
            {
                "approach": approach,
                "seeds": n,
                "difference": mean,
                "low": mean - half,
                "high": mean + half,
            }
        )
    table = pd.DataFrame(lines, columns=["approach", "seeds", "difference", "low", "high"])
    return table.sort_values("difference", ignore_index=True)


def mean_ranks(comparison: pd.DataFrame, column: str = "mean_gap") -> pd.DataFrame:
    """Rank of each approach by a column (1: smallest) within each seed and request, averaged; the
    original and the retrained models take no part. Columns: approach, mean_rank, best, worst."""
    rows = add_approach_column(comparison)
    rows = rows[~rows.approach.isin([ORIGINAL, RETRAINED])]
    ranks = rows.groupby(["seed", "forget_fraction"])[column].rank()
    table = (
        ranks.groupby(rows.approach).agg(mean_rank="mean", best="min", worst="max").reset_index()
    )
    return table.sort_values("mean_rank", ignore_index=True)
