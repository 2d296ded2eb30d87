"""Models that do not depend on each other, trained in parallel processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm.auto import tqdm

from forget_mi.training import DeviceConfig, uses_cuda


def parallel_models(settings: DeviceConfig) -> int:
    """How many models are worth training at the same time: one, unless `device.threads` leaves
    cores to others.

    LOKY_MAX_CPU_COUNT in the environment limits the cores. Processes that accelerate started train
    one model together.
    """
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return (
        1
        if uses_cuda(settings) or together or settings.threads is None
        else max(1, cpu_count() // settings.threads)
    )


def run_parallel(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    settings: DeviceConfig,
    progress: bool = True,
) -> list[Any]:
    """function of each item, in order, in `parallel_models` processes, or in this one where that is
    one. Items and results are pickled; an exception ends all."""
    workers = min(parallel_models(settings), len(items))
    if workers <= 1:
        return [function(item) for item in items]
    with parallel_config("loky", inner_max_num_threads=settings.threads):
        done = Parallel(workers, return_as="generator")(delayed(function)(item) for item in items)
        return list(tqdm(done, total=len(items), unit="model", disable=not progress))
