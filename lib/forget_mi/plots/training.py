"""Pictures of training, unlearning and tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from forget_mi.plots.style import COLOURS, SIDE_COLOURS, finish_figure, model_colour


def training_curves(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Training loss, validation loss and validation AUC by epoch, a line a model."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3))
    titles = {
        "train_loss": "training loss",
        "validation_loss": "validation loss (fused)",
        "validation_auc": "validation AUC",
    }
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        for number, (name, epochs) in enumerate(logs.items()):
            table = pd.DataFrame(list(epochs))
            axis.plot(
                table.epoch,
                table[column],
                color=model_colour(name),
                ls=["-", "--", ":"][number % 3],
                label=name,
            )
        axis.set(title=title, xlabel="epoch")
    axes[0].legend()
    return finish_figure(figure)


def unlearning_curves(epochs: pd.DataFrame) -> Figure:
    """What a method logged by epoch, and the cross-entropy on D_f climbing to that on D_v, where a
    run stops."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2))
    logged = [
        name for name in epochs if name not in ("epoch", "forget_loss", "validation_loss", "total")
    ]
    for name, colour in zip(logged, sns.color_palette("colorblind", len(logged)), strict=True):
        left.plot(epochs.epoch, epochs[name], marker="o", ms=4, color=colour, label=name)
    left.set(title="what the steps minimise", xlabel="epoch")
    if logged:
        left.legend(ncols=2)
    sides = {
        "forget_loss": ("$D_f$", SIDE_COLOURS["forget"]),
        "validation_loss": ("$D_v$", COLOURS["neutral"]),
    }
    for name, (label, colour) in sides.items():
        if name in epochs:
            right.plot(epochs.epoch, epochs[name], marker="o", ms=4, color=colour, label=label)
    right.set(title="cross-entropy of $F_{ul}$ (fused)", xlabel="epoch", ylabel="nats")
    if right.lines:
        right.legend()
    return finish_figure(figure)


def trials(table: pd.DataFrame) -> Figure:
    """Score of each trial of a search in its order, the best so far as a line; those that were
    dropped on the axis."""
    figure, axis = plt.subplots(figsize=(7, 2.8))
    finished = table.dropna(subset="score")
    axis.plot(finished.trial, finished.score, "o", color=COLOURS["neutral"], label="finished")
    axis.plot(
        finished.trial, finished.score.cummin(), color=COLOURS["unlearned"], label="best so far"
    )
    dropped = table[table.score.isna()]
    axis.plot(
        dropped.trial,
        np.zeros(len(dropped)),
        "x",
        color=COLOURS["neutral"],
        label="dropped or cut short",
    )
    axis.set(xlabel="trial", ylabel="score", ylim=(-0.01, None))
    axis.legend(fontsize=9)
    return finish_figure(figure)
