"""The pictures of the studies past the paper, for notebook 06 and the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from forget_mi.plots.style import (
    COLOURS,
    SIDE_COLOURS,
    approach_palette,
    finish_figure,
    model_colour,
    share_ticks,
)

OURS = "held_out_targets"


def frontier(table: pd.DataFrame) -> Figure:
    """Closeness to the retrained models, and what LiRA finds, against the share of retraining's
    work: a line a method, mean over seeds; the band is where retrained models lie among
    themselves."""
    panels = {
        "mean_gap": "mean gap to the retrained models",
        "lira_patient_auc": "LiRA by patient (AUC)",
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    methods = [name for name in table.approach.unique() if name not in ("original", "retrained")]
    colours = approach_palette(methods)
    gold = table[table.approach == "retrained"]
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        spread = gold.groupby("seed")[column].mean()
        low, high = (
            (0, spread.max()) if column == "mean_gap" else (gold[column].min(), gold[column].max())
        )
        axis.axhspan(low, high, color=COLOURS["neutral"], alpha=0.2, lw=0)
        axis.text(0.215, high, "retrained", ha="right", va="bottom", fontsize=8, color="0.35")
        for name in methods:
            line = (
                table[table.approach == name]
                .groupby("budget")[["share_of_retraining", column]]
                .mean()
            )
            strong = name == OURS
            axis.plot(
                line.share_of_retraining,
                line[column],
                "o-",
                label=name,
                color="black" if strong else colours[name],
                lw=2.6 if strong else 1.2,
                ms=6 if strong else 4,
                zorder=3 if strong else 2,
            )
        axis.set(xlabel="share of retraining's work", ylabel=title, xscale="log")
        share_ticks(axis)
        axis.set_xticks([0.02, 0.05, 0.1, 0.2])
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return finish_figure(figure)


def closeness_and_attack(table: pd.DataFrame, named: Sequence[str], ours: str) -> Figure:
    """One size of request: a point a method, its mean gap to the retrained models (left) and what
    an attack finds by patient (right: LiRA, or without shadow models the share of patients found at
    5 % of false alarms) against the share of retraining's work. table: method,
    share_of_retraining, mean_gap and lira_patient_auc with their _sd, patients_found_at_5pct; the
    band is the retrained models' mean and standard deviation over seeds. named: those that get
    their name and standard deviation; the others are grey.
    """
    second = ("lira_patient_auc", "LiRA by patient (AUC)")
    if table.lira_patient_auc.isna().all():
        second = ("patients_found_at_5pct", "patients found, 5 % of strangers accused")
    rows = table.set_index("method")
    gold = rows.loc["retrained"]
    methods = [name for name in rows.index if name not in ("original", "retrained")]
    colours = approach_palette([name for name in methods if name in named])
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6))
    for axis, (column, title) in zip(
        axes, (("mean_gap", "mean gap to the retrained models"), second), strict=True
    ):
        spread = gold.get(f"{column}_sd", 0.0)
        axis.axhspan(
            gold[column] - spread,
            gold[column] + spread,
            color=COLOURS["retrained"],
            alpha=0.18,
            lw=0,
        )
        axis.axhline(gold[column], color=COLOURS["retrained"], lw=1)
        axis.axhline(rows.loc["original", column], color=COLOURS["original"], lw=1, ls="--")
        for name in methods:
            x, y = rows.loc[name, ["share_of_retraining", column]]
            colour = "black" if name == ours else colours.get(name, "0.7")
            axis.plot(x, y, "o", ms=9 if name == ours else 6, color=colour, zorder=3)
            if name in named:
                deviation = rows.loc[name].get(f"{column}_sd", 0.0)
                axis.plot([x, x], [y - deviation, y + deviation], color=colour, lw=1.5, zorder=2)
                axis.annotate(
                    name, (x, y), fontsize=8, xytext=(6, 4), textcoords="offset points",
                    color=colour, fontweight="bold" if name == ours else "normal",
                )  # fmt: skip
        for name in ("original", "retrained"):
            axis.annotate(
                name, (0, rows.loc[name, column]), xycoords=("axes fraction", "data"), fontsize=8,
                xytext=(4, 2), textcoords="offset points", color=COLOURS[name],
            )  # fmt: skip
        axis.set(xlabel="share of retraining's work", ylabel=title, xscale="log")
        axis.set_xlim(right=3 * rows.loc[methods, "share_of_retraining"].max())  # names fit in
        share_ticks(axis)
    return finish_figure(figure)


def training_on(table: pd.DataFrame) -> Figure:
    """Left: LiRA on the forgotten records over epochs of training on those who stay, a line a
    model, mean over seeds, the band the retrained models'. Right: how much of the margin comes back
    with each part of the towers as training on left it."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), gridspec_kw={"width_ratios": [1, 1.4]})
    stay = table[(table.learned == "those who stay") & (table.optimizer == "adamw")]
    for name, part in stay.groupby("approach", sort=False):
        lines = part.groupby("epochs").lira_after_training_on.agg(["mean", "min", "max"])
        colour = "black" if name == OURS else model_colour(name)
        axes[0].plot(lines.index, lines["mean"], "o-", color=colour, label=name)
        if name == "retrained":
            axes[0].fill_between(
                lines.index, lines["min"], lines["max"], color=model_colour(name), alpha=0.15, lw=0
            )
    axes[0].set(xlabel="epochs on those who stay", ylabel="LiRA, forgotten against strangers")
    axes[0].legend(fontsize=8)
    where = table[(table.learned == "in part") & (table.approach == OURS)]
    means = where.groupby("part", sort=False)[["margin_forget", "margin_strangers"]].mean()
    rise = means - means.loc["nothing"]
    shown = rise.drop("nothing")
    height = np.arange(len(shown))
    for shift, (column, title) in zip(
        (-0.2, 0.2),
        {"margin_forget": "forgotten", "margin_strangers": "strangers"}.items(),
        strict=True,
    ):
        colour = SIDE_COLOURS["forget" if column == "margin_forget" else "test"]
        axes[1].barh(height + shift, shown[column], 0.4, color=colour, label=title)
    axes[1].set_yticks(height, shown.index)
    axes[1].invert_yaxis()
    axes[1].set(xlabel="margin above before (nats)", title=f"{OURS}: where it comes back")
    axes[1].legend(fontsize=8)
    return finish_figure(figure)


def request_sequence(table: pd.DataFrame) -> Figure:
    """Ten requests in a row: what is left of the earlier patients (their margin over the retrained
    models'), the loss of test AUC and the cost so far; a line a method, mean over seeds, the band
    from the lowest to the highest seed."""
    panels = {
        "margin_over_retrained": "margin of those served so far,\nover the retrained models'",
        "test_auc": "test AUC",
        "retain_loss": "loss on those who stay",
        "share_of_retraining": "share of retraining so far",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.4))
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for name, part in table.groupby("approach", sort=False):
            by_request = part.groupby("request")[column]
            colour = "black" if name.startswith(OURS) else model_colour(name)
            line = "o--" if name.endswith("-together") else "o-"
            axis.fill_between(
                by_request.mean().index,
                by_request.min(),
                by_request.max(),
                color=colour,
                alpha=0.15,
                lw=0,
            )
            axis.plot(by_request.mean(), line, ms=3, color=colour, label=name)
        axis.set(xlabel="request", ylabel=title)
    axes[0].axhline(0, color=COLOURS["neutral"], lw=1, ls=":")
    axes[0].legend(fontsize=8)
    return finish_figure(figure)


def probability_directions(points: Mapping[str, np.ndarray], original: str = "original") -> Figure:
    """Where several models put the same records: predicted probabilities (records, classes) of
    each, projected on the two directions in which they differ most; an arrow from the original's
    mean to each other's."""
    stacked = np.concatenate(list(points.values()))
    centre = stacked.mean(0)
    _, _, directions = np.linalg.svd(stacked - centre, full_matrices=False)
    figure, axis = plt.subplots(figsize=(7, 4.8))
    flat = {name: (p - centre) @ directions[:2].T for name, p in points.items()}
    for number, (name, p) in enumerate(flat.items()):
        colour = f"C{number}"
        axis.scatter(*p.T, s=12, alpha=0.25, color=colour, lw=0)
        axis.plot(*p.mean(0), "o", ms=11, color=colour, mec="white", label=name, zorder=4)
        if name != original:
            axis.annotate(
                "",
                p.mean(0),
                flat[original].mean(0),
                arrowprops={"arrowstyle": "->", "color": colour},
            )
    axis.set(xticks=[], yticks=[], xlabel="first direction", ylabel="second direction")
    axis.legend(fontsize=8)
    return finish_figure(figure)


def margins_by_source(margins: Mapping[str, np.ndarray]) -> Figure:
    """How sure of the forgotten patients' labels each source is: a row a source, a box over the
    records."""
    figure, axis = plt.subplots(figsize=(7.5, 0.9 + 0.42 * len(margins)))
    axis.boxplot(
        list(margins.values()),
        vert=False,
        widths=0.6,
        showfliers=False,
        medianprops={"color": "black"},
    )
    axis.set_yticks(range(1, len(margins) + 1), list(margins))
    axis.invert_yaxis()
    axis.axvline(0, color=COLOURS["neutral"], lw=1, ls=":")
    axis.set(xlabel="margin of the record's label (nats)")
    return finish_figure(figure)


def ways_out(table: pd.DataFrame) -> Figure:
    """Prepare, prevent or unlearn: what the strongest attack finds of the forgotten, by patient,
    against what a request costs, and the test AUC that each way leaves; a point a model and size of
    request, mean over seeds."""
    means = table.groupby(["way", "approach", "request"], sort=False).mean(numeric_only=True)
    panels = {"lira_patient_auc": "LiRA by patient (AUC)", "test_auc": "test AUC"}
    requests = list(dict.fromkeys(table.request))
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6))
    colours = dict(zip(WAYS, ("#555555", "#1b6ca8", "#7b4ea3", "#c2571a", "#2a9d4a"), strict=True))
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for (way, approach, request), row in means.iterrows():
            size = 30 + 60 * requests.index(request)
            cost = max(row.share_of_retraining, CHEAPEST)
            axis.scatter(cost, row[column], s=size, color=colours[way], alpha=0.7, lw=0)
            if request == requests[-1]:
                axis.annotate(
                    approach, (cost, row[column]), fontsize=7, xytext=(6, 0),
                    textcoords="offset points", va="center",
                )  # fmt: skip
        axis.set_xscale("log")
        axis.set(xlabel="share of retraining that a request costs", ylabel=title)
    handles = [plt.Line2D([], [], marker="o", ls="", color=colours[way], label=way) for way in WAYS]
    axes[1].legend(handles=handles, fontsize=8, title="larger: a larger request", title_fontsize=8)
    return finish_figure(figure)


WAYS = ("none", "retrain", "prepare", "prevent", "unlearn")
# Shares below this, and nothing, are drawn here.
CHEAPEST = 1e-3
