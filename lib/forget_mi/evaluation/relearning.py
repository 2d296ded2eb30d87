"""Relearning: how fast does a model learn the forgotten patients again?"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from scipy import stats

from forget_mi.data import Examples, device_loader, make_loader
from forget_mi.models import ImageTextModel
from forget_mi.training import default_loss, eval_frozen_layers, make_optimizer, predict, to_device

RELEARNING_RATE = 1e-4


RELEARNING_PASSES = 4


def relearning_curve(
    model: ImageTextModel, examples: Examples, *, passes: int, seed: int, accelerator: Accelerator
) -> np.ndarray:
    """Mean cross-entropy (fused, evaluation mode) on some records after 0, 1, ... passes of
    training on them (passes + 1 numbers, in nats): the training loss, AdamW at RELEARNING_RATE,
    batches of 32, batch norm as it is. The model is left alone."""
    pupil = to_device(copy.deepcopy(model), accelerator).requires_grad_(True)
    optimizer = make_optimizer(pupil, RELEARNING_RATE, 0.0)
    torch.manual_seed(seed)

    def loss() -> float:
        return float(predict(pupil, examples, accelerator).cross_entropy("fused").mean())

    curve = [loss()]
    for done in range(passes):
        pupil.train()
        eval_frozen_layers(pupil, all_batch_norm=True)
        for batch in device_loader(make_loader(examples, 32, seed=1000 * seed + done), accelerator):
            with accelerator.autocast():
                value = default_loss(pupil, batch, pupil.settings.ranking)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
        curve.append(loss())
    return np.array(curve)


def passes_to(curve: np.ndarray, level: float) -> float:
    """After how many passes a curve falls to a level, between two by the straight line; one more
    than there are passes where it does not get there."""
    below = np.flatnonzero(curve <= level)
    if len(below) == 0:
        return float(len(curve))
    at = int(below[0])
    return 0.0 if at == 0 else float(at - 1 + (curve[at - 1] - level) / (curve[at - 1] - curve[at]))


def stranger_samples(
    strangers: Examples, like: Examples, samples: int, seed: int
) -> list[Examples]:
    """Sets of records of whole patients drawn from strangers, each of about as many records as
    `like`."""
    patients = strangers.patients.numpy()
    found = []
    for number in range(samples):
        order = np.random.default_rng([seed, number, 59]).permutation(np.unique(patients))
        sizes = np.array([(patients == p).sum() for p in order])
        taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes), len(like) + 0.5)))]
        found.append(strangers.select(np.flatnonzero(np.isin(patients, taken))))
    return found


def relearning_speed(
    model: ImageTextModel,
    forget: Examples,
    strangers: Examples,
    level: float,
    *,
    passes: int = RELEARNING_PASSES,
    samples: int = 6,
    seed: int,
    accelerator: Accelerator,
) -> tuple[dict[str, float], pd.DataFrame]:
    """How fast a model learns D_f, beside as many records of strangers.

    Returns (result, curves). result: forget, the passes until the cross-entropy on D_f is at
    `level`; strangers, the mean of the same over samples of D_t; low, high, where one more sample
    of strangers would lie with 95 % (Student's t prediction interval, wide since samples overlap
    little and are few). Below it the model still knows the forgotten patients. curves: set, pass,
    loss.
    """
    sets = {"D_f": forget}
    sets |= {
        f"D_t {k + 1}": each
        for k, each in enumerate(stranger_samples(strangers, forget, samples, seed))
    }
    curves = {
        name: relearning_curve(model, each, passes=passes, seed=seed, accelerator=accelerator)
        for name, each in sets.items()
    }
    needed = {name: passes_to(curve, level) for name, curve in curves.items()}
    mine, others = needed.pop("D_f"), np.array(list(needed.values()))
    half = stats.t.ppf(0.975, len(others) - 1) * others.std(ddof=1) * np.sqrt(1 + 1 / len(others))
    result = {
        "forget": mine,
        "strangers": others.mean(),
        "low": others.mean() - half,
        "high": others.mean() + half,
    }
    lines = [
        {"set": n, "pass": at, "loss": loss}
        for n, curve in curves.items()
        for at, loss in enumerate(curve)
    ]
    return result, pd.DataFrame(lines)
