"""A picture of the Snakemake workflow."""

from __future__ import annotations

import re
from collections.abc import Mapping

import matplotlib.pyplot as plt
import networkx as nx
from matplotlib.figure import Figure

from forget_mi.plots.style import COLOURS, finish_figure


def workflow_figure(dot: str, jobs: Mapping[str, int]) -> Figure:
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
    return finish_figure(figure)
