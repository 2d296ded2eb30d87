"""Models that do not depend on each other, trained in parallel processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from tqdm.auto import tqdm

from forget_mi.training import DeviceConfig, uses_cuda


def parallel_models(settings: DeviceConfig) -> int:
    """How many models are worth training at the same time: on a card `device.models`, or what its
    memory and the cores that launch kernels bear; on a CPU one, unless `device.threads` leaves
    cores to others.

    LOKY_MAX_CPU_COUNT in the environment limits the cores. Processes that accelerate started train
    one model together.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return 1
    if uses_cuda(settings):
        if settings.models is not None:
            return settings.models
        memory = torch.cuda.get_device_properties(0).total_memory
        return max(1, min(cpu_count(), MOST_ON_A_CARD, memory // MEMORY_OF_A_MODEL))
    return 1 if settings.threads is None else max(1, cpu_count() // settings.threads)


# Small models wait for their kernels to be launched, so several share a card; one that needs more
# memory than this (`make memory`) has to say so by device.models.
MOST_ON_A_CARD, MEMORY_OF_A_MODEL = 8, 8 * 2**30


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
