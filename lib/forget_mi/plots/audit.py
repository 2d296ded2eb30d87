"""The pictures of the audit, for notebook 04 and the deletion report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from forget_mi.attacks import Scores
from forget_mi.evaluation import (
    COULD_NOT,
    DISTINGUISHED,
    FOUND,
    NOT_TOLD,
    OVER,
    PUSHED,
    RETRAINED,
    SAME,
    UNDER,
    UNKNOWN,
    sort_approaches,
)
from forget_mi.plots.style import (
    COLOURS,
    SIDE_COLOURS,
    approach_palette,
    finish_figure,
    model_colour,
)

VERDICT_COLOURS = {
    UNDER: "#D55E00",
    OVER: "#CC79A7",
    DISTINGUISHED: "#E69F00",
    SAME: "#009E73",
    UNKNOWN: "#999999",
}


PATIENT_COLOURS = {FOUND: "#D55E00", PUSHED: "#CC79A7", NOT_TOLD: "#009E73", COULD_NOT: "#999999"}


def low_fpr_roc(
    scores: Mapping[str, Scores], title: str, colours: Mapping[str, str] | None = None
) -> Figure:
    """ROC curves twice: as usual, and with both axes logarithmic, where the records that are found
    with hardly a stranger accused can be seen. A line a model (or attack); the dotted line is
    guessing."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    smallest = 1.0
    for number, (name, found) in enumerate(scores.items()):
        truth = np.repeat([1, 0], [len(found.forget), len(found.test)])
        false, true, _ = roc_curve(truth, np.concatenate(found), drop_intermediate=False)
        smallest = min(smallest, 1 / len(found.test))
        colour = colours[name] if colours else model_colour(name)
        for axis in axes:
            style = ["-", "--", ":", "-."][number % 4]
            # On a logarithmic axis 0 is drawn at half of the smallest share there is.
            logged = axis is axes[1]
            x, y = ((np.maximum(v, 0.5 / len(found.test)) if logged else v) for v in (false, true))
            axis.plot(x, y, color=colour, ls=style, label=name, drawstyle="steps-post")
    for axis in axes:
        axis.plot([0.0005, 1], [0.0005, 1], color=COLOURS["neutral"], lw=1, ls=":")
        axis.set(xlabel="strangers accused (FPR)", ylabel="members found (TPR)", title=title)
    axes[1].set(xscale="log", yscale="log", xlim=(smallest / 2, 1), ylim=(smallest / 2, 1.05))
    axes[0].legend(fontsize=8)
    return finish_figure(figure)


def patients_among_strangers(patients: pd.DataFrame, strangers: pd.DataFrame, title: str) -> Figure:
    """A row a model: the score of each stranger (small points) and of each forgotten patient, in
    the colour of the verdict. The bar is where 5 % of the strangers lie above. patients: model,
    score, verdict; strangers: model, score."""
    models = list(dict.fromkeys(patients.model))
    figure, axis = plt.subplots(figsize=(9, 1 + 0.7 * len(models)))
    rng = np.random.default_rng(0)
    for at, model in enumerate(models):
        there = strangers.score[strangers.model == model]
        height = at + 0.24 + rng.uniform(-0.12, 0.12, len(there))
        axis.scatter(there, height, color=SIDE_COLOURS["test"], alpha=0.35, s=8, lw=0)
        if len(there):
            axis.plot([there.quantile(0.95)] * 2, [at - 0.4, at + 0.4], color="black", lw=1.5)
        mine = patients[patients.model == model]
        for row in mine.itertuples():
            colour = PATIENT_COLOURS[row.verdict.split(" and ")[0]]
            axis.scatter(row.score, at - 0.2 + rng.uniform(-0.12, 0.12), color=colour, s=34, lw=0)
    for name in [v for v in PATIENT_COLOURS if patients.verdict.str.contains(v).any()]:
        axis.scatter([], [], color=PATIENT_COLOURS[name], label=name)
    axis.scatter([], [], color=SIDE_COLOURS["test"], s=8, label="strangers")
    axis.set_yticks(range(len(models)), models)
    axis.set(xlabel=title, ylim=(len(models) - 0.5, -0.5))
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return finish_figure(figure)


def verdict_gaps(table: pd.DataFrame, title: str) -> Figure:
    """A row a check, a point and interval its gap to the reference, in the colour of its verdict:
    to the right something is remembered, to the left the patients were pushed further than
    strangers."""
    rows = table[table.attack != "margin"].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(7.5, 0.9 + 0.22 * len(rows)))
    for at, row in enumerate(rows.itertuples()):
        colour = VERDICT_COLOURS[row.verdict]
        axis.plot([row.low, row.high], [at, at], color=colour, lw=2)
        axis.plot(row.gap, at, "o", color=colour, ms=4)
    axis.axvline(0, color=COLOURS["neutral"], lw=1)
    axis.set_yticks(
        range(len(rows)),
        [f"{r.attack}, {r.tower}, {r.level}" for r in rows.itertuples()],
        fontsize=8,
    )
    for name in [v for v in VERDICT_COLOURS if (rows.verdict == v).any()]:
        axis.plot([], [], "o-", color=VERDICT_COLOURS[name], label=name)
    axis.legend(fontsize=8, loc="best")
    axis.set(xlabel="gap in AUC to the reference", title=title, ylim=(len(rows) - 0.5, -0.5))
    return finish_figure(figure)


def relearning_curves(curves: pd.DataFrame, level: float) -> Figure:
    """A panel a model: the loss on D_f over passes of training on it, beside that on as many
    records of strangers."""
    models = list(dict.fromkeys(curves.model))
    figure, axes = plt.subplots(
        1, len(models), figsize=(3.4 * len(models), 3), sharey=True, squeeze=False
    )
    for axis, model in zip(axes[0], models, strict=True):
        for name, part in curves[curves.model == model].groupby("set", sort=False):
            mine = name == "D_f"
            axis.plot(
                part["pass"],
                part.loss,
                color=SIDE_COLOURS["forget" if mine else "test"],
                lw=2.5 if mine else 1,
                zorder=3 if mine else 2,
                label="$D_f$" if mine else "strangers" if name == "D_t 1" else None,
            )
        axis.axhline(level, color=COLOURS["neutral"], lw=1, ls=":")
        axis.set(title=model, xlabel="passes")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("cross-entropy (nats)")
    axes[0][0].legend(fontsize=8)
    return finish_figure(figure)


def score_histograms(scores: Mapping[str, Scores], title: str) -> Figure:
    """A panel a model: how an attack scores D_f and D_t. Where a model has forgotten, both lie on
    one another."""
    figure, axes = plt.subplots(
        1, len(scores), figsize=(3.4 * len(scores), 2.8), sharey=True, squeeze=False
    )
    for axis, (name, found) in zip(axes[0], scores.items(), strict=True):
        everything = np.concatenate(found)
        edges = np.linspace(*np.quantile(everything, [0.01, 0.99]), 22)
        for side, values in zip(("test", "forget"), found[::-1], strict=True):
            inside = np.clip(values, edges[0], edges[-1])
            label = "$D_t$" if side == "test" else "$D_f$"
            weights = np.full(len(values), 1 / len(values))
            axis.hist(
                inside, edges, weights=weights, alpha=0.6, color=SIDE_COLOURS[side], label=label
            )
        axis.set(title=name, xlabel=title)
    axes[0][0].set_ylabel("share of records")
    axes[0][0].legend(fontsize=8)
    return finish_figure(figure)


def attacks_by_approach(
    table: pd.DataFrame, first: str | None = None, attack: str = "strongest"
) -> Figure:
    """A row an approach, a point and interval (figures/audit.csv): the share of forgotten patients
    that is found at 5 % of false alarms, and the AUC of an attack by record and by patient; the
    dotted line is what forgetting should give, the band the retrained models' interval."""
    rows, one = table[table.attack == attack], table[table.attack == "one_patient"]
    order = sort_approaches(rows.model, first)
    palette = approach_palette(order)
    found = "patients_found_at_5pct"
    panels = (
        [("found, 5 % of strangers accused", "of the forgotten patients", one, found, 0.05)]
        if len(one)
        else []
    )
    for level, title in (("sample", "by record"), ("patient", "by patient")):
        part = rows[rows.level == level]
        panels.append((f"AUC of the {attack} attack", title, part, "auc", 0.5))
    size = (4.2 * len(panels) + 1.6, 1.2 + 0.3 * len(order))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True)
    for axis, (label, title, part, column, ideal) in zip(axes, panels, strict=True):
        part = part.set_index("model")
        for at, name in enumerate(order):
            value, low, high = part.loc[name, [column, f"{column}_low", f"{column}_high"]]
            axis.plot([low, high], [at, at], color=palette[name], lw=2)
            axis.plot(value, at, "o", color=palette[name])
            if name == RETRAINED:
                axis.axvspan(low, high, color=palette[name], alpha=0.12, lw=0)
        axis.axvline(ideal, color=COLOURS["neutral"], lw=1, ls=":")
        axis.set_yticks(range(len(order)), order)
        axis.set(xlabel=label, title=title)
    axes[0].invert_yaxis()
    return finish_figure(figure)


def models_to_plot(names: Sequence[str]) -> list[str]:
    """The original, the unlearned models, the first retrained model: what fits into one picture."""
    return [name for name in names if not name.startswith("retrained") or name == "retrained-1"]
