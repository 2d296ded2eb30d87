"""`make bench`, or `make bench ONLY="a b"`: run the benchmarks, keep their ratios in results.csv,
draw results.png.

Run it on an idle machine: a second process beside a training can slow it several times.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fixed_costs
import image_store
import matplotlib.pyplot as plt
import options
import pandas as pd
import reading_ahead
import scaling
import training_epoch
import unlearning_step
from measure import RESULTS

from forget_mi.plots.style import COLOURS, set_style
from forget_mi.studies.documents import write_document_table

BENCHMARKS = {
    "a": lambda: [*unlearning_step.small(), *options.rows()],
    "b": training_epoch.rows,
    "c": scaling.rows,
    "d": image_store.rows,
    "e": fixed_costs.notebooks,
    "f": fixed_costs.memory,
    "g": unlearning_step.paper,
    "h": fixed_costs.audit,
    "i": reading_ahead.rows,
}


def main(letters: list[str]) -> None:
    """Run the named benchmarks, or all."""
    unknown = [letter for letter in letters if letter not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"benchmark {unknown[0]!r}: allowed are {', '.join(BENCHMARKS)}")
    for letter in letters or BENCHMARKS:
        # Each in a process of its own: what one leaves behind (the compiler, a larger heap) is in
        # no other's times.
        code = f"import run, measure; measure.keep(run.BENCHMARKS[{letter!r}]())"
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    draw(pd.read_csv(RESULTS), RESULTS.with_suffix(".png"))
    write_document_table("bench", readme(pd.read_csv(RESULTS)))


def readme(rows: pd.DataFrame) -> pd.DataFrame:
    """The README's table: every ratio with its spread; of (c), the largest requests and the
    exponents."""
    small = (rows.benchmark == "c") & rows.case.str.contains(r"share .* [13] %")
    shown = rows[~small]
    return pd.DataFrame(
        {
            "": shown.benchmark,
            "case": shown.case,
            "ratio [low, high]": [
                f"{r.ratio:.3g} [{r.low:.3g}, {r.high:.3g}]" for r in shown.itertuples()
            ],
        }
    )


def draw(rows: pd.DataFrame, path: Path) -> None:
    """A row a ratio, with its spread, on a logarithmic axis."""
    set_style()
    rows = rows[rows.ratio > 0].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(8, 0.8 + 0.27 * len(rows)))
    for at, row in enumerate(rows.itertuples()):
        axis.plot([max(row.low, 1e-3), row.high], [at, at], color=COLOURS["original"], lw=2)
        axis.plot(row.ratio, at, "o", color=COLOURS["original"], ms=5)
    axis.axvline(1, color=COLOURS["neutral"], lw=1, ls=":")
    axis.set_yticks(
        range(len(rows)), [f"({r.benchmark}) {r.case}" for r in rows.itertuples()], fontsize=8
    )
    axis.set(xscale="log", xlabel="ratio", ylim=(len(rows) - 0.5, -0.5))
    figure.savefig(path)


if __name__ == "__main__":
    main(sys.argv[1:])
