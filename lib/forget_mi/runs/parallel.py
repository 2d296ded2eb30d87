"""Models that do not depend on each other, trained in parallel processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from forget_mi.training.devices import DeviceConfig


def side_by_side(
    function: Callable[[Any], Any], items: Sequence[Any], settings: DeviceConfig, progress: bool = True
) -> list[Any]:
    """function of each item, in order: in as many processes as `settings` has models at once, or here, where that is
    one. Items and results are pickled, and an exception ends it all."""
    from joblib import Parallel, delayed, parallel_config
    from tqdm.auto import tqdm

    workers = min(settings.at_once(), len(items))
    if workers <= 1:
        return [function(item) for item in items]
    with parallel_config("loky", inner_max_num_threads=settings.threads):
        done = Parallel(workers, return_as="generator")(delayed(function)(item) for item in items)
        return list(tqdm(done, total=len(items), unit="model", disable=not progress))
