"""Training on: does what was forgotten come back when the model is trained further, on others?

A model in use is trained on. Outputs can hide what weights still hold: one ordinary epoch on those
who stay, which never sees the forgotten patients, may bring them back. Under a retrained model
there is nothing to come back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator

from forget_mi.attacks import Evidence, lira, margins
from forget_mi.data import Examples, device_loader, make_loader
from forget_mi.evaluation.measures import SETS
from forget_mi.evaluation.patient_scores import patient_tests
from forget_mi.evaluation.patient_test import FOUND, PatientTest
from forget_mi.metrics import binary_auc
from forget_mi.models import ImageTextModel
from forget_mi.training import (
    Shadows,
    TrainingConfig,
    default_loss,
    make_optimizer,
    predict,
    to_device,
)

COMES_BACK, STAYS_AWAY = "comes back", "does not come back"


Optimizer = Literal["adamw", "sgd"]


def trained_on(
    model: ImageTextModel,
    examples: Examples,
    settings: TrainingConfig,
    *,
    epochs: Sequence[float],
    seed: int,
    accelerator: Accelerator,
    optimizer: Optimizer = "adamw",
) -> Iterator[tuple[float, ImageTextModel]]:
    """The model after so many epochs of ordinary training on some records, for each of `epochs`
    (ascending; .25 is a quarter of the batches of one): the epochs, and the model, which trains on
    once the next is asked for. The one that was given is left alone.

    As the original was trained (loss, batches, clipping, weight decay), at half of its peak rate,
    which is the mean of its schedule; `sgd` with momentum .9 instead of AdamW, at ten times that.
    """
    pupil = to_device(copy.deepcopy(model), accelerator).requires_grad_(True)
    rate = settings.learning_rate / 2
    steps_of = make_optimizer(pupil, rate, settings.weight_decay)
    if optimizer == "sgd":
        steps_of = torch.optim.SGD(pupil.parameters(), lr=10 * rate, momentum=0.9)
    wanted = list(epochs)
    for epoch in range(int(np.ceil(max(wanted, default=0)))):
        torch.manual_seed(1_000_003 * seed + epoch)
        loader = make_loader(examples, settings.batch_size, seed=1000 * seed + epoch)
        for number, batch in enumerate(device_loader(loader, accelerator), start=1):
            pupil.train()
            with accelerator.autocast():
                loss = default_loss(pupil, batch, pupil.settings.ranking)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(pupil.parameters(), settings.clip)
            steps_of.step()
            steps_of.zero_grad()
            while wanted and epoch + number / len(loader) >= wanted[0] - 1e-9:
                yield wanted.pop(0), pupil


def after_training_on(
    model: ImageTextModel,
    trained: Iterable[tuple[float, ImageTextModel]],
    sets: Mapping[str, Examples],
    accelerator: Accelerator,
    shadows: Mapping[str, Shadows] | None = None,
) -> tuple[list[dict[str, float | str]], dict[float, PatientTest]]:
    """A model attacked as it is and as it is after training on.

    trained: of `trained_on`. sets, shadows: by side of an Evidence, the records and what shadow
    models say of them.

    Returns a row for 0 and each of the epochs, and the test of each patient. A row: epochs,
    found_after_training_on (share of the forgotten patients that an attacker finds who accuses 5 %
    of strangers), lira_after_training_on (AUC by record, fused; by margin where there are no shadow
    models), margin_forget, margin_strangers (means, in nats), comes_back (a verdict).
    """
    rows, tests = [], {}
    for epochs, pupil in chain([(0.0, model)], trained):
        seen = {side: predict(pupil, sets[side], accelerator) for side in SETS}
        evidence = Evidence(**seen, shadows=shadows)
        tests[epochs] = patient_tests(evidence)
        rows.append({"epochs": epochs, **measures_after(evidence, tests[epochs])})
    return rows, tests


def measures_after(evidence: Evidence, test: PatientTest) -> dict[str, float | str]:
    """The columns of a row of `after_training_on` but the first."""
    scores = (
        lira.attack(evidence, "fused")
        if evidence.shadows is not None
        else [margins(p, "fused") for p in (evidence.forget, evidence.test)]
    )
    return {
        "found_after_training_on": test.found(0.05)["value"],
        "lira_after_training_on": binary_auc(*scores),
        "margin_forget": float(margins(evidence.forget, "fused").mean()),
        "margin_strangers": float(margins(evidence.test, "fused").mean()),
        "comes_back": COMES_BACK if FOUND in test.verdict else STAYS_AWAY,
    }
