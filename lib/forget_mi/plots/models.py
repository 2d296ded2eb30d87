"""Pictures of single models: losses, ROC curves, measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from forget_mi.metrics import binary_auc
from forget_mi.plots.style import COLOURS, SIDE_COLOURS, finish_figure, model_colour


def loss_histograms(losses: pd.DataFrame, models: Sequence[str], tower: str = "fused") -> Figure:
    """As in the paper: the distribution of cross-entropy on D_f and D_t under each model. Where a
    model has forgotten, both lie on one another."""
    columns = min(len(models), 4)
    lines = -(-len(models) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.8 * columns, 3 * lines), sharey=True, squeeze=False
    )
    edges = np.linspace(0, max(3.0, float(losses[tower].quantile(0.98))), 25)
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis, model in zip(axes.flat, models, strict=False):
        for side, name in (("test", "$D_t$"), ("forget", "$D_f$")):
            values = losses[tower][(losses.model == model) & (losses.set == side)].clip(
                upper=edges[-1]
            )
            weights = np.full(len(values), 1 / len(values))
            axis.hist(
                values, edges, weights=weights, alpha=0.6, color=SIDE_COLOURS[side], label=name
            )
        axis.set(title=model, xlabel=f"cross-entropy ({tower})")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of records")
    axes[0][0].legend()
    return finish_figure(figure)


def roc_curves(scores: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """ROC curve of an attack, a line a model: scores of members and of strangers, higher meaning
    member."""
    figure, axis = plt.subplots(figsize=(4.6, 4))
    for name, (members, strangers) in scores.items():
        truth = np.concatenate([np.ones(len(members)), np.zeros(len(strangers))])
        false, true, _ = roc_curve(truth, np.concatenate([members, strangers]))
        axis.plot(
            false,
            true,
            color=model_colour(name),
            label=f"{name} ({binary_auc(members, strangers):.2f})",
        )
    axis.plot([0, 1], [0, 1], color=COLOURS["neutral"], lw=1, ls=":")
    axis.set(xlabel="strangers accused (FPR)", ylabel="members found (TPR)", title=title)
    axis.legend(fontsize=8)
    return finish_figure(figure)


def measures_with_intervals(
    table: pd.DataFrame, measures: Mapping[str, str], tower: str = "fused"
) -> Figure:
    """A panel a measure, a point and interval a model; the band is the range of the retrained
    models."""
    chosen = table[table.tower == tower]
    height = max(2.8, 0.8 + 0.27 * chosen.model.nunique())
    figure, axes = plt.subplots(
        1, len(measures), figsize=(2.9 * len(measures), height), sharey=True, squeeze=False
    )
    for axis, (measure, title) in zip(axes[0], measures.items(), strict=True):
        rows = chosen[chosen.measure == measure].iloc[::-1]
        for at, row in enumerate(rows.itertuples()):
            axis.plot([row.low, row.high], [at, at], color=model_colour(row.model), lw=2)
            axis.plot(row.value, at, "o", color=model_colour(row.model))
        retrained = rows.value[rows.model.str.startswith("retrained")]
        if len(retrained):
            axis.axvspan(retrained.min(), retrained.max(), color=COLOURS["retrained"], alpha=0.15)
        axis.set_yticks(range(len(rows)), rows.model)
        axis.set(title=title)
    return finish_figure(figure)
