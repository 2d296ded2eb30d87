"""What all benchmarks share: timing two pieces of work alternately, and the table that their ratios go into."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

RESULTS = Path(__file__).with_name("results.csv")
Work = Callable[[], object]


class Row(NamedTuple):
    """One ratio: benchmark is a letter, low and high the quartiles over rounds (or an interval, where it says so)."""

    benchmark: str
    case: str
    ratio: float
    low: float
    high: float


def seconds(work: Work) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternately(plain: Work, ours: Work, rounds: int, warm: bool = True) -> tuple[float, float, float]:
    """How many times as long `plain` takes as `ours`: median and quartiles over rounds, each of which times both, in
    turn and in this process, so that what the machine does beside hits both alike."""
    if warm:
        plain(), ours()
    ratios = [seconds(plain) / seconds(ours) for _ in range(rounds)]
    return spread(ratios)


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    values = list(values)
    return statistics.median(values), *(float(q) for q in np.quantile(values, [0.25, 0.75]))


def keep(rows: Iterable[Row]) -> None:
    """Print the rows, and put them into results.csv in place of the same benchmark's earlier ones."""
    new = pd.DataFrame(rows)
    old = pd.read_csv(RESULTS) if RESULTS.is_file() else new.iloc[:0]
    table = pd.concat([old[~old.benchmark.isin(new.benchmark)], new]).sort_values("benchmark", kind="stable")
    RESULTS.write_text(table.to_csv(index=False, float_format="%.4g"))
    print(new.round(3).to_string(index=False), flush=True)
