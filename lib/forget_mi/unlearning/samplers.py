"""Batch samplers of the unlearning loop: which records of D_f and D_r each step sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from forget_mi.unlearning.base import StepConfig, UnlearningData

NO_RECORDS = np.empty(0, dtype=np.int64)


class StepIndices(NamedTuple):
    """The records of one step: positions in D_f and in D_r; either may be empty."""

    forget: np.ndarray
    retain: np.ndarray


# (rng, epoch) -> the steps of that epoch.
BatchSampler = Callable[[np.random.Generator, int], list[StepIndices]]


def paired_sampler(data: UnlearningData, settings: StepConfig) -> BatchSampler:
    """An epoch is a pass over D_f; each step takes `retain_batch` records of D_r along. The cost of
    an epoch depends on the request, not on the size of the cohort."""

    def sample(rng: np.random.Generator, epoch: int) -> list[StepIndices]:
        batches = forget_batches(rng, len(data.forget), settings)
        retain = sample_in_rounds(rng, len(data.retain), settings.retain_batch * len(batches))
        return [
            StepIndices(f, r) for f, r in zip(batches, np.split(retain, len(batches)), strict=True)
        ]

    return sample


def forget_sampler(data: UnlearningData, settings: StepConfig) -> BatchSampler:
    """An epoch is a pass over D_f and nothing else."""
    return lambda rng, epoch: [
        StepIndices(f, NO_RECORDS) for f in forget_batches(rng, len(data.forget), settings)
    ]


def retain_sampler(data: UnlearningData, settings: StepConfig) -> BatchSampler:
    """An epoch is a pass over D_r and nothing else."""
    return lambda rng, epoch: [
        StepIndices(NO_RECORDS, r) for r in retain_batches(rng, len(data.retain), settings)
    ]


def steps_a_pass(records: int, settings: StepConfig) -> int:
    """In how many steps a pass over so many records of D_f is taken."""
    return max(-(-records // settings.batch_size), min(settings.least_steps, records))


def forget_batches(
    rng: np.random.Generator, records: int, settings: StepConfig
) -> list[np.ndarray]:
    """D_f in random order, in batches of at most batch_size and in at least least_steps of them."""
    steps = steps_a_pass(records, settings)
    return np.array_split(rng.permutation(records), steps)


def retain_batches(
    rng: np.random.Generator, records: int, settings: StepConfig
) -> list[np.ndarray]:
    """D_r in random order, in batches of at most retain_batch."""
    return np.array_split(rng.permutation(records), -(-records // settings.retain_batch))


def sample_in_rounds(rng: np.random.Generator, available: int, count: int) -> np.ndarray:
    """Positions of `wanted` records, without repetition until all have been drawn."""
    rounds = [rng.permutation(available) for _ in range(-(-count // available))]
    return np.concatenate(rounds)[:count]


def shard(step: StepIndices, process: int, processes: int) -> StepIndices:
    """The share of one of several processes in a step: every `processes`-th record of D_f and of
    D_r.

    Gradients are averaged over processes, so records that can't be divided evenly count a little
    unevenly. Fewer records than processes are taken whole by each process.
    """
    return StepIndices(
        *(part if 0 < len(part) < processes else part[process::processes] for part in step)
    )


def micro_batches(step: StepIndices, parts: int) -> list[StepIndices]:
    """A step in parts for gradient accumulation, each with about the same share of D_f and D_r.
    There are no more parts than records of either."""
    sizes = [len(part) for part in step if len(part)]
    parts = max(1, min([parts, *sizes]))
    return [
        StepIndices(*each)
        for each in zip(*(np.array_split(part, parts) for part in step), strict=True)
    ]
