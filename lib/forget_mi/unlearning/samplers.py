"""Batch samplers of the unlearning loop: which records of D_f and D_r a step sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from forget_mi.unlearning.base import StepConfig, UnlearningData


class Draw(NamedTuple):
    """Which records a step sees: positions in D_f and in D_r; either may be empty."""

    forget: np.ndarray
    retain: np.ndarray


NONE = np.empty(0, dtype=np.int64)


Draws = Callable[[np.random.Generator, int], list[Draw]]


def share(draw: Draw, process: int, processes: int) -> Draw:
    """What one of several processes takes of a step: every `processes`-th record of each half. Gradients are averaged
    over processes, so where a half can't be cut evenly its records count a little unevenly; a half of fewer records
    than processes is taken whole by each."""
    return Draw(*(half if 0 < len(half) < processes else half[process::processes] for half in draw))


def cut(draw: Draw, parts: int) -> list[Draw]:
    """A step in parts that go through the model one after another, each with about the same share of both halves; a
    half of fewer records than parts allows only as many."""
    sizes = [len(half) for half in draw if len(half)]
    parts = max(1, min([parts, *sizes]))
    return [Draw(*halves) for halves in zip(*(np.array_split(half, parts) for half in draw), strict=True)]


def paced_by_forget(data: UnlearningData, settings: StepConfig) -> Draws:
    """An epoch is a pass over D_f; each step takes `retain_batch` records of D_r along. Its cost depends on the
    request, not on the size of the cohort."""

    def draws(rng: np.random.Generator, epoch: int) -> list[Draw]:
        batches = forget_batches(rng, len(data.forget), settings)
        retained = draw_in_rounds(rng, len(data.retain), settings.retain_batch * len(batches))
        return [Draw(f, r) for f, r in zip(batches, np.split(retained, len(batches)), strict=True)]

    return draws


def forget_only(data: UnlearningData, settings: StepConfig) -> Draws:
    """An epoch is a pass over D_f and nothing else."""
    return lambda rng, epoch: [Draw(f, NONE) for f in forget_batches(rng, len(data.forget), settings)]


def retain_only(data: UnlearningData, settings: StepConfig) -> Draws:
    """An epoch is a pass over D_r and nothing else."""
    return lambda rng, epoch: [Draw(NONE, r) for r in retain_batches(rng, len(data.retain), settings)]


def forget_batches(rng: np.random.Generator, records: int, settings: StepConfig) -> list[np.ndarray]:
    """D_f in random order, in batches of at most batch_size and in at least least_steps of them."""
    steps = max(-(-records // settings.batch_size), min(settings.least_steps, records))
    return np.array_split(rng.permutation(records), steps)


def retain_batches(rng: np.random.Generator, records: int, settings: StepConfig) -> list[np.ndarray]:
    """D_r in random order, in batches of at most retain_batch."""
    return np.array_split(rng.permutation(records), -(-records // settings.retain_batch))


def draw_in_rounds(rng: np.random.Generator, available: int, wanted: int) -> np.ndarray:
    """Positions of `wanted` records, without repetition until all have been drawn."""
    rounds = [rng.permutation(available) for _ in range(-(-wanted // available))]
    return np.concatenate(rounds)[:wanted]


def retained(draws: list[Draw]) -> np.ndarray:
    """The positions in D_r that an epoch's steps see, in their order."""
    return np.concatenate([draw.retain for draw in draws])
