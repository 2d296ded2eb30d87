"""Pictures of a cohort."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from forget_mi.data import Cohort
from forget_mi.plots.style import finish_figure


def sample_images(cohort: Cohort, per_class: int = 4, seed: int = 0) -> Figure:
    """A row a class, `per_class` images of different patients each; class and study severity as
    titles."""
    rng = np.random.default_rng(seed)
    figure, axes = plt.subplots(
        len(cohort.classes),
        per_class,
        figsize=(2 * per_class, 2.1 * len(cohort.classes)),
        squeeze=False,
    )
    for label, line in enumerate(axes):
        rows = (
            cohort.table[cohort.table.label == label].drop_duplicates("patient_id").index.to_numpy()
        )
        for axis in line:
            axis.set_axis_off()
        for axis, row in zip(line, rng.permutation(rows), strict=False):
            axis.imshow(cohort.images[row, 0], cmap="gray", vmin=0, vmax=255)
            axis.set_title(cohort.classes[label], fontsize=9)
    return finish_figure(figure)


def patient_images(cohort: Cohort, patient: str) -> Figure:
    """All images of one patient in a row, with their labels."""
    rows = cohort.table.index[cohort.table.patient_id == patient]
    figure, axes = plt.subplots(1, len(rows), figsize=(2.2 * len(rows), 2.4), squeeze=False)
    for axis, row in zip(axes[0], rows, strict=True):
        axis.imshow(cohort.images[row, 0], cmap="gray", vmin=0, vmax=255)
        axis.set_title(cohort.classes[cohort.table.label[row]], fontsize=9)
        axis.set_axis_off()
    return finish_figure(figure)


def label_balance(cohort: Cohort) -> Figure:
    """Share of each class on each side of the split."""
    shares = (
        cohort.table.groupby("split")
        .label.value_counts(normalize=True)
        .rename("share")
        .reset_index()
    )
    shares["class"] = [cohort.classes[label] for label in shares.label]
    figure, axis = plt.subplots(figsize=(7, 3))
    sns.barplot(
        shares, x="class", y="share", hue="split", ax=axis, order=cohort.classes,
        hue_order=["train", "validation", "test"], palette=["#0072B2", "#E69F00", "#56B4E9"],
    )  # fmt: skip
    axis.set(xlabel="", ylabel="share of images")
    return finish_figure(figure)


def pictures(images: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Images (height, width) side by side, values 0 to 1 or 0 to 255."""
    figure, axes = plt.subplots(1, len(images), figsize=(2.4 * len(images), 2.6), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1 if np.max(image) <= 1 else 255)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    return finish_figure(figure)
