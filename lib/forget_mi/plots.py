"""The pictures and printed tables that the notebooks and the README show."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from sklearn.metrics import roc_curve

from forget_mi.cohorts.base import Cohort
from forget_mi.metrics import binary_auc
from forget_mi.statistics import ORIGINAL, RETRAINED, order_of, with_approach

# Colour-blind safe (Okabe-Ito), the same model in the same colour everywhere.
COLOURS = {"original": "#0072B2", "retrained": "#009E73", "unlearned": "#D55E00", "neutral": "#666666"}
SIDE_COLOURS = {"forget": "#D55E00", "test": "#56B4E9"}


def set_style() -> None:
    """One look for all figures."""
    sns.set_theme(style="whitegrid", context="notebook")
    plt.rcParams.update({"figure.dpi": 80, "savefig.dpi": 110, "savefig.bbox": "tight"})


def shown_once(figure: Figure) -> Figure:
    """Lay a figure out and close it for pyplot, so that a notebook shows it where it is returned and nowhere else."""
    figure.tight_layout()
    plt.close(figure)
    return figure


def colour_of(model: str) -> str:
    """A model's colour by its name."""
    if model == "original":
        return COLOURS["original"]
    return COLOURS["retrained"] if model.startswith("retrained") else COLOURS["unlearned"]


def sample_images(cohort: Cohort, per_class: int = 4, seed: int = 0) -> Figure:
    """A row a class, `per_class` images of different patients each; class and study severity as titles."""
    rng = np.random.default_rng(seed)
    figure, axes = plt.subplots(
        len(cohort.classes), per_class, figsize=(2 * per_class, 2.1 * len(cohort.classes)), squeeze=False
    )
    for label, line in enumerate(axes):
        rows = cohort.table[cohort.table.label == label].drop_duplicates("patient_id").index.to_numpy()
        for axis in line:
            axis.set_axis_off()
        for axis, row in zip(line, rng.permutation(rows), strict=False):
            axis.imshow(cohort.images[row, 0], cmap="gray", vmin=0, vmax=255)
            axis.set_title(cohort.classes[label], fontsize=9)
    return shown_once(figure)


def patient_images(cohort: Cohort, patient: str) -> Figure:
    """All images of one patient in a row, with their labels."""
    rows = cohort.table.index[cohort.table.patient_id == patient]
    figure, axes = plt.subplots(1, len(rows), figsize=(2.2 * len(rows), 2.4), squeeze=False)
    for axis, row in zip(axes[0], rows, strict=True):
        axis.imshow(cohort.images[row, 0], cmap="gray", vmin=0, vmax=255)
        axis.set_title(cohort.classes[cohort.table.label[row]], fontsize=9)
        axis.set_axis_off()
    return shown_once(figure)


def label_balance(cohort: Cohort) -> Figure:
    """Share of each class on each side of the split."""
    shares = cohort.table.groupby("split").label.value_counts(normalize=True).rename("share").reset_index()
    shares["class"] = [cohort.classes[label] for label in shares.label]
    figure, axis = plt.subplots(figsize=(7, 3))
    sns.barplot(
        shares, x="class", y="share", hue="split", ax=axis, order=cohort.classes,
        hue_order=["train", "validation", "test"], palette=["#0072B2", "#E69F00", "#56B4E9"],
    )  # fmt: skip
    axis.set(xlabel="", ylabel="share of images")
    return shown_once(figure)


def pictures(images: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Images (height, width) side by side, values 0 to 1 or 0 to 255."""
    figure, axes = plt.subplots(1, len(images), figsize=(2.4 * len(images), 2.6), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1 if np.max(image) <= 1 else 255)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    return shown_once(figure)


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
            axis.plot(table.epoch, table[column], color=colour_of(name), ls=["-", "--", ":"][number % 3], label=name)
        axis.set(title=title, xlabel="epoch")
    axes[0].legend()
    return shown_once(figure)


def unlearning_curves(epochs: pd.DataFrame) -> Figure:
    """What a method logged by epoch, and the cross-entropy on D_f climbing to that on D_v, where a run stops."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2))
    logged = [name for name in epochs if name not in ("epoch", "forget_loss", "validation_loss", "total")]
    for name, colour in zip(logged, sns.color_palette("colorblind", len(logged)), strict=True):
        left.plot(epochs.epoch, epochs[name], marker="o", ms=4, color=colour, label=name)
    left.set(title="what the steps minimise", xlabel="epoch")
    if logged:
        left.legend(ncols=2)
    sides = {"forget_loss": ("$D_f$", SIDE_COLOURS["forget"]), "validation_loss": ("$D_v$", COLOURS["neutral"])}
    for name, (label, colour) in sides.items():
        if name in epochs:
            right.plot(epochs.epoch, epochs[name], marker="o", ms=4, color=colour, label=label)
    right.set(title="cross-entropy of $F_{ul}$ (fused)", xlabel="epoch", ylabel="nats")
    if right.lines:
        right.legend()
    return shown_once(figure)


def loss_histograms(losses: pd.DataFrame, models: Sequence[str], tower: str = "fused") -> Figure:
    """As in the paper: the distribution of cross-entropy on D_f and D_t under each model. Where a model has forgotten,
    both lie on one another."""
    columns = min(len(models), 4)
    lines = -(-len(models) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.8 * columns, 3 * lines), sharey=True, squeeze=False)
    edges = np.linspace(0, max(3.0, float(losses[tower].quantile(0.98))), 25)
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis, model in zip(axes.flat, models, strict=False):
        for side, name in (("test", "$D_t$"), ("forget", "$D_f$")):
            values = losses[tower][(losses.model == model) & (losses.set == side)].clip(upper=edges[-1])
            weights = np.full(len(values), 1 / len(values))
            axis.hist(values, edges, weights=weights, alpha=0.6, color=SIDE_COLOURS[side], label=name)
        axis.set(title=model, xlabel=f"cross-entropy ({tower})")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of records")
    axes[0][0].legend()
    return shown_once(figure)


def roc_curves(scores: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """ROC curve of an attack, a line a model: scores of members and of strangers, higher meaning member."""
    figure, axis = plt.subplots(figsize=(4.6, 4))
    for name, (members, strangers) in scores.items():
        truth = np.concatenate([np.ones(len(members)), np.zeros(len(strangers))])
        false, true, _ = roc_curve(truth, np.concatenate([members, strangers]))
        axis.plot(false, true, color=colour_of(name), label=f"{name} ({binary_auc(members, strangers):.2f})")
    axis.plot([0, 1], [0, 1], color=COLOURS["neutral"], lw=1, ls=":")
    axis.set(xlabel="strangers accused (FPR)", ylabel="members found (TPR)", title=title)
    axis.legend(fontsize=8)
    return shown_once(figure)


def measures_with_intervals(table: pd.DataFrame, measures: Mapping[str, str], tower: str = "fused") -> Figure:
    """A panel a measure, a point and interval a model; the band is the range of the retrained models."""
    chosen = table[table.tower == tower]
    height = max(2.8, 0.8 + 0.27 * chosen.model.nunique())
    figure, axes = plt.subplots(1, len(measures), figsize=(2.9 * len(measures), height), sharey=True, squeeze=False)
    for axis, (measure, title) in zip(axes[0], measures.items(), strict=True):
        rows = chosen[chosen.measure == measure].iloc[::-1]
        for at, row in enumerate(rows.itertuples()):
            axis.plot([row.low, row.high], [at, at], color=colour_of(row.model), lw=2)
            axis.plot(row.value, at, "o", color=colour_of(row.model))
        retrained = rows.value[rows.model.str.startswith("retrained")]
        if len(retrained):
            axis.axvspan(retrained.min(), retrained.max(), color=COLOURS["retrained"], alpha=0.15)
        axis.set_yticks(range(len(rows)), rows.model)
        axis.set(title=title)
    return shown_once(figure)


def palette_of(approaches: Sequence[str]) -> dict[str, object]:
    """A colour an approach: the original and the retrained models in theirs, Forget-MI's settings in orange to
    brown, the others spread over a colour map."""
    ours = [name for name in approaches if name.startswith("forget_mi")]
    others = [name for name in approaches if name not in ours and name not in (ORIGINAL, RETRAINED)]
    colours = {ORIGINAL: COLOURS["original"], RETRAINED: COLOURS["retrained"]}
    colours |= dict(zip(ours, sns.color_palette("YlOrBr_r", len(ours) + 2)[: len(ours)], strict=True))
    if len(ours) == 1:
        colours[ours[0]] = COLOURS["unlearned"]
    return colours | dict(zip(others, sns.husl_palette(len(others), h=0.5, l=0.55), strict=True))


def trials(table: pd.DataFrame) -> Figure:
    """Score of each trial of a search in its order, the best so far as a line; those that were dropped on the axis."""
    figure, axis = plt.subplots(figsize=(7, 2.8))
    finished = table.dropna(subset="score")
    axis.plot(finished.trial, finished.score, "o", color=COLOURS["neutral"], label="finished")
    axis.plot(finished.trial, finished.score.cummin(), color=COLOURS["unlearned"], label="best so far")
    dropped = table[table.score.isna()]
    axis.plot(dropped.trial, np.zeros(len(dropped)), "x", color=COLOURS["neutral"], label="dropped or cut short")
    axis.set(xlabel="trial", ylabel="score", ylim=(-0.01, None))
    axis.legend(fontsize=9)
    return shown_once(figure)


def workflow(dot: str, jobs: Mapping[str, int]) -> Figure:
    """A Snakemake rule graph (its --rulegraph output in the dot language), from left to right, with the number of jobs
    of each rule."""
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    edges = [(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", dot) if a != b]
    edges = [(a, b) for a, b in edges if a in jobs and b in jobs]
    order = list(nx.topological_sort(nx.DiGraph(edges)))
    at = {name: (3 * column, 0) for column, name in enumerate(order)}
    figure, axis = plt.subplots(figsize=(11, 3.2))
    for a, b in edges:
        far = order.index(b) - order.index(a)
        bend = "arc3,rad=0" if far == 1 else f"arc3,rad={-0.11 * far:.2f}"
        style = {
            "arrowstyle": "-|>",
            "color": COLOURS["neutral"],
            "shrinkA": 36,
            "shrinkB": 36,
            "connectionstyle": bend,
        }
        axis.annotate("", at[b], at[a], arrowprops=style)
    for name, (x, y) in at.items():
        text = f"{name}\n{jobs[name]} job{'s' if jobs[name] > 1 else ''}"
        box = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": COLOURS["original"], "lw": 2}
        axis.text(x, y, text, ha="center", va="center", fontsize=11, bbox=box)
    axis.set(xlim=(-1.2, 3 * len(order) - 1.8), ylim=(-0.8, 2.4))
    axis.set_axis_off()
    return shown_once(figure)


def gaps_by_measure(gaps: pd.DataFrame, titles: Mapping[str, str], first: str | None = None) -> Figure:
    """Signed gap to the retrained models: a panel a measure, a row an approach; a point is a seed and request (the
    larger, the larger the request), a bar their mean. The band is the retrained models' own range."""
    order = order_of(gaps.approach, first)
    palette, fractions = palette_of(order), sorted(gaps.forget_fraction.unique())
    figure, axes = plt.subplots(
        1, len(titles), figsize=(2.9 * len(titles), 1.2 + 0.3 * len(order)), sharey=True, squeeze=False
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
            axis.scatter(these.gap, np.full(len(these), at), s=sizes, color=palette[approach], alpha=0.55, lw=0)
            axis.plot([these.gap.mean()] * 2, [at - 0.35, at + 0.35], color=palette[approach], lw=3)
        axis.set_yticks(range(len(order)), order)
        axis.set_title(title, fontsize=11)
    axes[0][0].invert_yaxis()
    figure.supxlabel("gap to the retrained models", fontsize=11)
    return shown_once(figure)


def forgetting_against_usefulness(comparison: pd.DataFrame, first: str | None = None) -> Figure:
    """A panel a size of request: AUC on the forgotten patients across, on the test patients up; mean and standard
    deviation over seeds. The cross is the retrained models' mean, the target; the shade their spread."""
    rows = with_approach(comparison)
    fractions, order = sorted(rows.forget_fraction.unique()), order_of(rows.approach, first)
    palette = palette_of(order)
    figure, axes = plt.subplots(
        1, len(fractions), figsize=(4.4 * len(fractions) + 2, 4), sharex=True, sharey=True, squeeze=False
    )
    for axis, fraction in zip(axes[0], fractions, strict=True):
        for approach in order:
            these = rows[(rows.forget_fraction == fraction) & (rows.approach == approach)]
            x, y = these.forget_auc, these.test_auc
            dx, dy = (0 if np.isnan(v.std()) else v.std() for v in (x, y))
            if approach == RETRAINED:
                axis.axvspan(x.mean() - dx, x.mean() + dx, color=palette[approach], alpha=0.12, lw=0)
                axis.axhspan(y.mean() - dy, y.mean() + dy, color=palette[approach], alpha=0.12, lw=0)
                axis.plot(x.mean(), y.mean(), "P", ms=13, color=palette[approach], label="retrained (target)")
            else:
                axis.errorbar(x.mean(), y.mean(), dy, dx, "o", color=palette[approach], lw=1, alpha=0.9, label=approach)
        axis.set(title=f"request of {100 * fraction:.3g} %", xlabel="AUC on the forgotten patients")
    axes[0][0].set_ylabel("AUC on test patients")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    return shown_once(figure)


def cost_against_closeness(comparison: pd.DataFrame, first: str | None = None) -> Figure:
    """Share of retraining's time across (logarithmic), mean gap to the retrained models up, a point an approach and
    size of request; the shade is the gap between two retrained models."""
    rows = with_approach(comparison)
    order = order_of(rows.approach, first)
    palette, markers = palette_of(order), ["o", "s", "D", "^", "v"]
    figure, axis = plt.subplots(figsize=(8, 4.6))
    own = rows.mean_gap[rows.approach == RETRAINED].dropna()
    if len(own):
        axis.axhspan(0, own.mean(), color=COLOURS["retrained"], alpha=0.15, lw=0, label="between retrained models")
    for number, (_, part) in enumerate(rows.groupby("forget_fraction", sort=True)):
        for approach in [name for name in order if name not in (ORIGINAL, RETRAINED)]:
            these = part[part.approach == approach]
            axis.plot(
                these.share_of_retraining.mean(), these.mean_gap.mean(), markers[number % len(markers)],
                color=palette[approach], label=approach if number == 0 else None,
            )  # fmt: skip
    axis.set(xscale="log", xlabel="share of the time of retraining", ylabel="mean gap to retrained", ylim=(0, None))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    return shown_once(figure)


def curves_over_requests(comparison: pd.DataFrame, titles: Mapping[str, str], first: str | None = None) -> Figure:
    """A panel a measure: its mean over seeds against the size of the request, a line an approach."""
    rows = with_approach(comparison)
    order = order_of(rows.approach, first)
    palette = palette_of(order)
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
    return shown_once(figure)


SHOWN = ("model", "mia_svc_image", "mia_svc_fused", "attack_auc", "forget_auc", "forget_f1", "test_auc", "test_f1",
         "retain_auc", "mean_gap")  # fmt: skip


def comparison_table(comparison: pd.DataFrame, columns: Sequence[str] = SHOWN) -> pd.DataFrame:
    """The comparison's main columns, rounded to three decimals, a row a model."""
    return comparison[list(columns)].set_index("model").round(3)


def print_comparison(path: Path) -> None:
    """Print runs/<profile>/comparison.csv as a plain table."""
    comparison = pd.read_csv(path)
    columns = [*SHOWN, "seconds", "share_of_retraining"]
    print(comparison_table(comparison, columns).to_string())


def wrapped(text: str, width: int = 100) -> str:
    """A report's text in lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(text, width))
