"""The pictures and printed tables that the notebooks and the README show."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from forget_mi.cohorts.base import Cohort
from forget_mi.metrics import binary_auc

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
    """The four losses by epoch, and the cross-entropy on D_f climbing to that on D_v, where the run stops."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2))
    names = {"uu": "UU", "ur": "UR", "mu": "MU", "mr": "MR"}
    for (column, name), colour in zip(names.items(), ["#D55E00", "#0072B2", "#E69F00", "#56B4E9"], strict=True):
        left.plot(epochs.epoch, epochs[column], marker="o", ms=4, color=colour, label=name)
    left.set(title="the four losses", xlabel="epoch", ylabel="distance")
    left.legend(ncols=2)
    right.plot(epochs.epoch, epochs.forget_loss, marker="o", ms=4, color=SIDE_COLOURS["forget"], label="$D_f$")
    right.plot(epochs.epoch, epochs.validation_loss, marker="o", ms=4, color=COLOURS["neutral"], label="$D_v$")
    right.set(title="cross-entropy of $F_{ul}$ (fused)", xlabel="epoch", ylabel="nats")
    right.legend()
    return shown_once(figure)


def loss_histograms(losses: pd.DataFrame, models: Sequence[str], tower: str = "fused") -> Figure:
    """As in the paper: the distribution of cross-entropy on D_f and D_t under each model. Where a model has forgotten,
    both lie on one another."""
    figure, axes = plt.subplots(1, len(models), figsize=(3.8 * len(models), 3), sharey=True, squeeze=False)
    edges = np.linspace(0, max(3.0, float(losses[tower].quantile(0.98))), 25)
    for axis, model in zip(axes[0], models, strict=True):
        for side, name in (("test", "$D_t$"), ("forget", "$D_f$")):
            values = losses[tower][(losses.model == model) & (losses.set == side)].clip(upper=edges[-1])
            weights = np.full(len(values), 1 / len(values))
            axis.hist(values, edges, weights=weights, alpha=0.6, color=SIDE_COLOURS[side], label=name)
        axis.set(title=model, xlabel=f"cross-entropy ({tower})")
    axes[0][0].set_ylabel("share of records")
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
    figure, axes = plt.subplots(1, len(measures), figsize=(2.9 * len(measures), 2.8), sharey=True, squeeze=False)
    chosen = table[table.tower == tower]
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


def results_against_retrained(results: pd.DataFrame) -> Figure:
    """Gap to the retrained models over seeds: one panel a measure, a point a seed, the mean as a bar."""
    measures = {"mia_svc_fused": "SVC attack", "attack_auc": "loss attack AUC", "forget_auc": "forget AUC",
                "forget_f1": "forget F1", "test_auc": "test AUC"}  # fmt: skip
    long = results.melt(["method", "forget_fraction", "seed"], list(measures), "measure")
    reference = long[long.method == "retrain"].groupby(["forget_fraction", "seed", "measure"]).value.mean()
    long = long.join(reference.rename("retrained"), on=["forget_fraction", "seed", "measure"])
    long["gap"] = long.value - long.retrained
    long["percent"] = (100 * long.forget_fraction).map("{:g} %".format)
    figure, axes = plt.subplots(1, len(measures), figsize=(13, 3), sharey=True)
    order = [m for m in ("original", "retrain", "forget_mi") if m in set(long.method)]
    palette = {"original": COLOURS["original"], "retrain": COLOURS["retrained"], "forget_mi": COLOURS["unlearned"]}
    for axis, (measure, title) in zip(axes, measures.items(), strict=True):
        part = long[long.measure == measure]
        sns.stripplot(part, x="percent", y="gap", hue="method", hue_order=order, palette=palette, dodge=True, ax=axis)
        axis.axhline(0, color=COLOURS["neutral"], lw=1)
        axis.set(title=title, xlabel="request", ylabel="gap to retrained")
        handles, names = axis.get_legend_handles_labels()
        axis.get_legend().remove()
    figure.legend(handles, names, loc="upper center", ncols=len(names), bbox_to_anchor=(0.5, 1.08), frameon=False)
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
