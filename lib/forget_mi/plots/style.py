"""One look for all figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from forget_mi.evaluation import ORIGINAL, RETRAINED

# Colour-blind safe (Okabe-Ito), the same model in the same colour everywhere.
COLOURS = {
    "original": "#0072B2",
    "retrained": "#009E73",
    "unlearned": "#D55E00",
    "neutral": "#666666",
}


SIDE_COLOURS = {"forget": "#D55E00", "test": "#56B4E9"}


def set_style() -> None:
    """One look for all figures."""
    sns.set_theme(style="whitegrid", context="notebook")
    plt.rcParams.update({"figure.dpi": 80, "savefig.dpi": 110, "savefig.bbox": "tight"})


def finish_figure(figure: Figure) -> Figure:
    """Lay a figure out and close it for pyplot, so that a notebook shows it where it is returned
    and nowhere else."""
    figure.tight_layout()
    plt.close(figure)
    return figure


def share_ticks(axis: Axes) -> None:
    """Ticks of a logarithmic x axis of shares: 1 %, 2 %, 5 %, 10 %, ..."""
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.xaxis.set_minor_formatter(NullFormatter())


def model_colour(model: str) -> str:
    """A model's colour by its name."""
    if model == "original":
        return COLOURS["original"]
    return COLOURS["retrained"] if model.startswith("retrained") else COLOURS["unlearned"]


def approach_palette(approaches: Sequence[str]) -> dict[str, object]:
    """A colour an approach: the original and the retrained models in theirs, Forget-MI's settings
    in orange to brown, the others spread over a colour map."""
    ours = [name for name in approaches if name.startswith("forget_mi")]
    others = [name for name in approaches if name not in ours and name not in (ORIGINAL, RETRAINED)]
    colours = {ORIGINAL: COLOURS["original"], RETRAINED: COLOURS["retrained"]}
    colours |= dict(
        zip(ours, sns.color_palette("YlOrBr_r", len(ours) + 2)[: len(ours)], strict=True)
    )
    if len(ours) == 1:
        colours[ours[0]] = COLOURS["unlearned"]
    return colours | dict(zip(others, sns.husl_palette(len(others), h=0.5, l=0.55), strict=True))


def wrapped(text: str, width: int = 100) -> str:
    """A report's text in lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(text, width))
