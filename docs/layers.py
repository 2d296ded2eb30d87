"""The plan of the library as a picture, figures/layers.png, drawn from the contracts in
pyproject.toml (`make layers`).

It also prints the longest chain of packages that import each other, and fails where that is longer
than LONGEST.
"""

from __future__ import annotations

import sys
import tomllib
from functools import cache
from pathlib import Path

import grimp
import matplotlib.pyplot as plt

from forget_mi import plots

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 8


def layers() -> list[list[str]]:
    """The layers of the contract in pyproject.toml, from the top: the names that stand in each."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(each for each in contracts["contracts"] if each["id"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def package_imports() -> dict[str, set[str]]:
    """Which packages of the library each of them imports; single files at the top are left out."""
    graph = grimp.build_graph("forget_mi")
    packages = [child for child in graph.find_children("forget_mi") if graph.find_children(child)]
    for package in packages:
        graph.squash_module(package)
    names = {package: package.removeprefix("forget_mi.") for package in packages}
    return {
        names[package]: {
            names[other]
            for other in graph.find_modules_directly_imported_by(package)
            if other in names
        }
        for package in packages
    }


def longest_chain(imports: dict[str, set[str]]) -> list[str]:
    """The longest chain of packages, each of which imports the next. There is no circle:
    lint-imports holds that."""

    @cache
    def below(package: str) -> tuple[str, ...]:
        return (
            package,
            *max((below(each) for each in sorted(imports[package])), key=len, default=()),
        )

    return list(max(map(below, sorted(imports)), key=len))


def draw(path: Path) -> None:
    """A row a layer, the topmost first; what stands beside each other does not import each
    other."""
    plots.set_style()
    rows = layers()
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(rows)), layout="constrained")
    for row, names in enumerate(rows):
        width = 1 / len(names)
        for column, name in enumerate(names):
            box = plt.Rectangle(
                (column * width + 0.004, -row + 0.08),
                width - 0.008,
                0.84,
                facecolor="#e8eef4",
                edgecolor="#33475b",
            )
            axes.add_patch(box)
            is_package = (ROOT / "lib" / "forget_mi" / name).is_dir()
            axes.text(
                (column + 0.5) * width,
                -row + 0.5,
                f"{name}/" if is_package else name,
                ha="center",
                va="center",
                weight="bold" if is_package else "normal",
            )
    axes.set(xlim=(0, 1), ylim=(-len(rows) + 1, 1))
    axes.axis("off")
    axes.set_title("Each layer may import those below it", loc="left")
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    chain = longest_chain(package_imports())
    print(f"the longest chain of packages has {len(chain)}: {' -> '.join(chain)}")
    draw(ROOT / "figures" / "layers.png")
    print("figures/layers.png")
    sys.exit(len(chain) > LONGEST)
