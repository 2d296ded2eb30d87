"""The picture of the study of the test of one patient."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from forget_mi.plots.style import COLOURS, finish_figure


def calibration(p: pd.DataFrame, retrained: pd.DataFrame) -> Figure:
    """Three panels, by number of shadow models: quantiles of the p-values of patients whom a model
    never saw against uniform ones (crosses: models truly retrained without the patient); the share
    found at 5 % by how strongly the model has memorised them; and the share accused and found by
    the number of strangers.

    p: kind, judges, strangers (0: all), strangers_there, p, memorised. retrained: judges, p.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    numbers = sorted(p.judges.unique())
    palette = dict(zip(numbers, sns.color_palette("viridis", len(numbers)), strict=True))
    whole = p[p.strangers == 0]
    for judges, colour in palette.items():
        never, seen = (
            whole[(whole.kind == kind) & (whole.judges == judges)]
            for kind in ("never seen", "seen")
        )
        ordered = np.sort(never.p)
        expected = (np.arange(len(ordered)) + 0.5) / len(ordered)
        axes[0].plot(expected, ordered, color=colour, label=f"{judges}")
        bins = pd.qcut(seen.memorised, 8)
        groups = seen.groupby(bins, observed=True)
        axes[1].plot(
            groups.memorised.mean(), groups.p.apply(lambda v: (v <= 0.05).mean()),
            "o-", ms=4, color=colour,
        )  # fmt: skip
    if len(retrained):
        few = retrained[retrained.judges == retrained.judges.max()]
        ordered = np.sort(few.p)
        expected = (np.arange(len(ordered)) + 0.5) / len(ordered)
        axes[0].plot(expected, ordered, "kx", label="retrained")
    axes[0].plot([0, 1], [0, 1], color=COLOURS["neutral"], ls=":")
    axes[0].set(xlabel="uniform", ylabel="p-value", title="patients never seen", xlim=(1e-3, 1))
    axes[0].set(xscale="log", yscale="log", ylim=(1e-3, 1))
    axes[0].legend(title="shadow models", fontsize=8)
    axes[1].set(xlabel="margin above unseen models' (nats)", ylim=(0, 1.03))
    axes[1].set(ylabel="found at 5 %", title="patients seen")
    for judges, colour in palette.items():
        part = p[p.judges == judges]
        for kind, style in (("seen", "o-"), ("never seen", "s--")):
            groups = part[part.kind == kind].groupby("strangers_there").p
            if len(groups) > 1:
                share = groups.apply(lambda v: (v <= 0.05).mean())
                axes[2].plot(share.index, share, style, ms=4, color=colour)
    axes[2].axhline(0.05, color=COLOURS["neutral"], ls=":")
    axes[2].set(xlabel="strangers", ylabel="found (line), accused (dashed)", ylim=(0, 1.03))
    axes[2].set_title("at 5 %")
    return finish_figure(figure)
