"""The pictures of a simulated year of requests."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from forget_mi.plots.style import COLOURS, approach_palette, finish_figure


def letters(table: pd.DataFrame) -> Figure:
    """The letters of a year: when each came and how many patients it names. table: a row a letter
    with received (day of the year), named and urgent."""
    figure, axis = plt.subplots(figsize=(9, 2.6))
    for urgent, label, colour in (
        (False, "letter", COLOURS["neutral"]),
        (True, "urgent", COLOURS["unlearned"]),
    ):
        rows = table[table.urgent == urgent]
        axis.vlines(rows.received / 7, 0, rows.named, color=colour, lw=1)
        axis.plot(rows.received / 7, rows.named, "o", ms=5, color=colour, label=label)
    axis.set(xlabel="week", ylabel="patients named", xlim=(0, 52), ylim=(0, None))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return finish_figure(figure)


def policies(table: pd.DataFrame) -> Figure:
    """Left, the gap to models retrained without everyone served so far, over the year, a line a
    policy (mean over seeds; at a quarter's end before and after the model is renewed), and the
    retrained models' own in the same manner; right, how long a patient can still be found against
    what the year costs."""
    names = list(table.policy.unique())
    colours = approach_palette(names)
    figure, (over_time, costs) = plt.subplots(1, 2, figsize=(12, 4.6))
    for name in names:
        own = table[table.policy == name].groupby(["week", "moment"])  # in_use, then renewed
        rows = own.mean(numeric_only=True).reset_index("moment")
        over_time.plot(rows.index, rows.mean_gap, "o-", ms=3, label=name, color=colours[name])
        last = rows.iloc[-1]
        total = last.trainings + last.trainings_of_references
        costs.scatter(total, last.exposure_days, color=colours[name])
        costs.annotate(
            name, (total, last.exposure_days), fontsize=8, xytext=(5, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
    floor = table.groupby("week").retrain_gap.mean()
    over_time.plot(floor.index, floor, ":", color=COLOURS["retrained"], label="retrained")
    over_time.set(xlabel="week", ylabel="mean gap to the retrained models")
    over_time.set_ylim(0)
    over_time.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    costs.set(
        xlabel="trainings in the year, references included",
        ylabel="days on which a patient is found",
        xlim=(0, 1.4 * costs.get_xlim()[1]),  # room for the names
        ylim=(0, None),
    )
    return finish_figure(figure)


def alarm(table: pd.DataFrame, threshold: float) -> Figure:
    """The estimated gap against the measured one, a point a quarter of a policy's year."""
    figure, axis = plt.subplots(figsize=(5.2, 4.6))
    seen = table[table.mean_gap.notna()]
    axis.scatter(seen.mean_gap, seen.wear, s=18, color=COLOURS["unlearned"], alpha=0.7)
    highest = float(seen[["mean_gap", "wear"]].max().max()) if len(seen) else threshold
    axis.plot([0, highest], [0, highest], ":", color=COLOURS["neutral"])
    for line in (axis.axvline, axis.axhline):
        line(threshold, color=COLOURS["neutral"], lw=1)
    axis.set(xlabel="measured mean gap", ylabel="estimated without a retrained model")
    return finish_figure(figure)


def moves(table: pd.DataFrame, cosines: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Of several requests in a row: whom each reaches (mean margins after it), the cosines between
    their steps, and the parts of the towers that they move."""
    figure, (reach, angles, where) = plt.subplots(1, 3, figsize=(14, 4.2))
    groups = {
        "stay": "those who stay",
        "strangers": "strangers",
        "earlier": "patients of earlier requests",
        "own": "the request's own",
        "target": "what its references teach",
    }
    for name, label in groups.items():
        if name in table:
            reach.plot(table.request, table[name], "o-", ms=3, label=label)
    reach.set(xlabel="request", ylabel="mean margin, nats")
    reach.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    sns.heatmap(
        cosines.mask(np.eye(len(cosines), dtype=bool)), ax=angles, vmin=-0.5, vmax=0.5, cmap="vlag",
        square=True, cbar_kws={"label": "cosine of two steps", "shrink": 0.8},
    )  # fmt: skip
    angles.set(xlabel="request", ylabel="request")
    angles.grid(visible=False)
    layers.mean().plot.barh(ax=where, color=COLOURS["unlearned"])
    where.invert_yaxis()
    where.set(xlabel="share of a step's squared length")
    return finish_figure(figure)
