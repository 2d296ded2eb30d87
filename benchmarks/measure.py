"""What all benchmarks share: timing two pieces of work alternately, and the table that their ratios
go into."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

RESULTS = Path(__file__).with_name("results.csv")
Work = Callable[[], object]


class Row(NamedTuple):
    """One ratio: benchmark is a letter, low and high the quartiles over rounds (or an interval,
    where it says so)."""

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


def alternately(plain: Work, ours: Work, rounds: int) -> tuple[float, float, float]:
    """How many times as long `plain` takes as `ours`: median and quartiles over rounds."""
    return spread(ratios(plain, ours, rounds))


def ratios(plain: Work, ours: Work, rounds: int) -> list[float]:
    """How many times as long `plain` takes as `ours`, a number a round, each of which times both,
    in turn and in this process, so that what the machine does beside hits both alike; the first
    round of all is not counted."""
    plain(), ours()
    return [seconds(plain) / seconds(ours) for _ in range(rounds)]


def in_processes(rounds: Callable[[], list[float]], processes: int) -> tuple[float, float, float]:
    """Median and quartiles of the ratios that so many processes measure, one after another: where a
    process has its memory decides too, and within one that never shows."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        found = [pool.submit(rounds).result() for _ in range(processes)]
    print(*(f"{value:.3g}" for one in found for value in one), flush=True)
    return spread(value for one in found for value in one)


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    values = list(values)
    return statistics.median(values), *(float(q) for q in np.quantile(values, [0.25, 0.75]))


def keep(rows: Iterable[Row]) -> None:
    """Print the rows, and put them into results.csv in place of the same benchmark's earlier
    ones."""
    new = pd.DataFrame(rows)
    old = pd.read_csv(RESULTS) if RESULTS.is_file() else new.iloc[:0]
    table = pd.concat([old[~old.benchmark.isin(new.benchmark)], new]).sort_values(
        "benchmark", kind="stable"
    )
    RESULTS.write_text(table.to_csv(index=False, float_format="%.4g"))
    print(new.round(3).to_string(index=False), flush=True)
