"""Pictures and tables that compare approaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from forget_mi.evaluation import ORIGINAL, RETRAINED, add_approach_column, sort_approaches
from forget_mi.plots.style import COLOURS, approach_palette, finish_figure, share_ticks


def gaps_by_measure(
    gaps: pd.DataFrame, titles: Mapping[str, str], first: str | None = None
) -> Figure:
    """Signed gap to the retrained models: a panel a measure, a row an approach; a point is a seed
    and request (the larger, the larger the request), a bar their mean. The band is the retrained
    models' own range."""
    order = sort_approaches(gaps.approach, first)
    palette, fractions = approach_palette(order), sorted(gaps.forget_fraction.unique())
    figure, axes = plt.subplots(
        1,
        len(titles),
        figsize=(2.9 * len(titles), 1.2 + 0.3 * len(order)),
        sharey=True,
        squeeze=False,
    )
    for axis, (measure, title) in zip(axes[0], titles.items(), strict=True):
        part = gaps[gaps.measure == measure]
        own = part.gap[part.approach == RETRAINED].dropna()
        if len(own):
            axis.axvspan(own.min(), own.max(), color=COLOURS["retrained"], alpha=0.12, lw=0)
        axis.axvline(0, color=COLOURS["neutral"], lw=1)
        for at, approach in enumerate(order):
            these = part[part.approach == approach]
            sizes = [14 + 16 * fractions.index(f) for f in these.forget_fraction]
            axis.scatter(
                these.gap,
                np.full(len(these), at),
                s=sizes,
                color=palette[approach],
                alpha=0.55,
                lw=0,
            )
            axis.plot([these.gap.mean()] * 2, [at - 0.35, at + 0.35], color=palette[approach], lw=3)
        axis.set_yticks(range(len(order)), order)
        axis.set_title(title, fontsize=11)
    axes[0][0].invert_yaxis()
    figure.supxlabel("gap to the retrained models", fontsize=11)
    return finish_figure(figure)


def forgetting_against_usefulness(comparison: pd.DataFrame, first: str | None = None) -> Figure:
    """A panel a size of request: AUC on the forgotten patients across, on the test patients up;
    mean and standard deviation over seeds. The cross is the retrained models' mean, the target; the
    shade their spread."""
    rows = add_approach_column(comparison)
    fractions, order = sorted(rows.forget_fraction.unique()), sort_approaches(rows.approach, first)
    palette = approach_palette(order)
    figure, axes = plt.subplots(
        1,
        len(fractions),
        figsize=(4.4 * len(fractions) + 2, 4),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis, fraction in zip(axes[0], fractions, strict=True):
        for approach in order:
            these = rows[(rows.forget_fraction == fraction) & (rows.approach == approach)]
            x, y = these.forget_auc, these.test_auc
            dx, dy = (0 if np.isnan(v.std()) else v.std() for v in (x, y))
            if approach == RETRAINED:
                axis.axvspan(
                    x.mean() - dx, x.mean() + dx, color=palette[approach], alpha=0.12, lw=0
                )
                axis.axhspan(
                    y.mean() - dy, y.mean() + dy, color=palette[approach], alpha=0.12, lw=0
                )
                axis.plot(
                    x.mean(),
                    y.mean(),
                    "P",
                    ms=13,
                    color=palette[approach],
                    label="retrained (target)",
                )
            else:
                axis.errorbar(
                    x.mean(),
                    y.mean(),
                    dy,
                    dx,
                    "o",
                    color=palette[approach],
                    lw=1,
                    alpha=0.9,
                    label=approach,
                )
        axis.set(title=f"request of {100 * fraction:.3g} %", xlabel="AUC on the forgotten patients")
    axes[0][0].set_ylabel("AUC on test patients")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    return finish_figure(figure)


def cost_against_closeness(comparison: pd.DataFrame, first: str | None = None) -> Figure:
    """Share of retraining's time across (logarithmic), mean gap to the retrained models up, a point
    an approach and size of request; the shade is the gap between two retrained models."""
    rows = add_approach_column(comparison)
    order = sort_approaches(rows.approach, first)
    palette, markers = approach_palette(order), ["o", "s", "D", "^", "v"]
    figure, axis = plt.subplots(figsize=(8, 4.6))
    own = rows.mean_gap[rows.approach == RETRAINED].dropna()
    if len(own):
        axis.axhspan(
            0,
            own.mean(),
            color=COLOURS["retrained"],
            alpha=0.15,
            lw=0,
            label="between retrained models",
        )
    for number, (_, part) in enumerate(rows.groupby("forget_fraction", sort=True)):
        for approach in [name for name in order if name not in (ORIGINAL, RETRAINED)]:
            these = part[part.approach == approach]
            axis.plot(
                these.share_of_retraining.mean(),
                these.mean_gap.mean(),
                markers[number % len(markers)],
                color=palette[approach],
                label=approach if number == 0 else None,
            )
    axis.set(
        xscale="log",
        xlabel="share of the time of retraining",
        ylabel="mean gap to retrained",
        ylim=(0, None),
    )
    share_ticks(axis)
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    return finish_figure(figure)


def curves_over_requests(
    comparison: pd.DataFrame, titles: Mapping[str, str], first: str | None = None
) -> Figure:
    """A panel a measure: its mean over seeds against the size of the request, a line an
    approach."""
    rows = add_approach_column(comparison)
    order = sort_approaches(rows.approach, first)
    palette = approach_palette(order)
    lines = -(-len(titles) // 4)
    figure, axes = plt.subplots(lines, 4, figsize=(13, 3.2 * lines), squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.set_axis_off()
    for axis, (column, title) in zip(axes.flat, titles.items(), strict=False):
        for approach in order:
            line = rows[rows.approach == approach].groupby("forget_fraction")[column].mean()
            strong = approach in (ORIGINAL, RETRAINED, first)
            axis.plot(
                100 * line.index, line, "o-", ms=4, color=palette[approach], label=approach,
                lw=2.5 if strong else 1, alpha=1 if strong else 0.7, zorder=3 if strong else 2,
            )  # fmt: skip
        axis.set(title=title, xlabel="request (% of training images)")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return finish_figure(figure)


COLUMNS = (
    "model",
    "patients_found_at_5pct",
    "mia_svc_image",
    "mia_svc_fused",
    "attack_auc",
    "forget_auc",
    "forget_f1",
    "test_auc",
    "test_f1",
    "retain_auc",
    "mean_gap",
)


def comparison_table(comparison: pd.DataFrame, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """The comparison's main columns, rounded to three decimals, a row a model."""
    there = [column for column in columns if column in comparison]
    return comparison[there].set_index("model").round(3)


def print_comparison(path: Path) -> None:
    """Print runs/<profile>/comparison.csv as a plain table."""
    comparison = pd.read_csv(path)
    columns = [*COLUMNS, "seconds", "share_of_retraining"]
    print(comparison_table(comparison, columns).to_string())
