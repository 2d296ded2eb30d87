"""SSD: dampen the weights that matter for D_f more than for everyone (Foster et al., AAAI 2024,
arXiv 2308.07707)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor

from forget_mi.config import config
from forget_mi.data import Examples, device_loader, make_loader
from forget_mi.losses import classification_loss
from forget_mi.models import ImageTextModel
from forget_mi.unlearning.base import UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import frozen_and_trainable
from forget_mi.unlearning.samplers import sample_in_rounds
from forget_mi.unlearning.search_space import LogUniform, OneOf


@config
class Config:
    """alpha: a weight is dampened where its importance for D_f is more than alpha times that for
    the training set. dampening: by how much (lambda). batch_size: records whose mean gradient is
    squared; 1 is the diagonal of the Fisher information, the authors' code takes larger ones.
    records: of D_r on which the training set's importance is measured."""

    alpha: Annotated[float, Field(gt=0)] = 10.0
    dampening: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Annotated[int, Field(ge=1)] = 8
    records: Annotated[int, Field(ge=1)] = 512


SEARCH = {
    "alpha": LogUniform(0.5, 100.0),
    "dampening": LogUniform(0.1, 5.0),
    "batch_size": OneOf((4, 16)),
}


def unlearn(
    model: ImageTextModel,
    data: UnlearningData,
    settings: Config,
    *,
    seed: int,
    accelerator: Accelerator,
    progress: bool = True,
) -> tuple[ImageTextModel, UnlearningLog]:
    """F_ul from F_og in one shot, without training: where I_f > alpha I, weight *= min(dampening I
    / I_f, 1), with I_f and I the mean squared gradients of CE(image) + CE(text) over D_f and over
    the training set (their equations 3-6).

    Departure: I is measured on D_f and a sample of D_r, weighted by their sizes, not on every
    training record.
    """
    log = UnlearningLog()
    _, unlearned = frozen_and_trainable(model, accelerator)
    chosen = sample_in_rounds(
        np.random.default_rng([seed, 17]), len(data.retain), min(settings.records, len(data.retain))
    )
    for_forget = importance(unlearned, data.forget, settings.batch_size, accelerator)
    for_retain = importance(unlearned, data.retain.select(chosen), settings.batch_size, accelerator)
    log.work += len(data.forget) + len(chosen)
    share = len(data.forget) / (len(data.forget) + len(data.retain))
    dampened = total = 0
    with torch.no_grad():
        for name, weight in unlearned.named_parameters():
            everyone = share * for_forget[name] + (1 - share) * for_retain[name]
            special = for_forget[name] > settings.alpha * everyone
            factor = (settings.dampening * everyone / for_forget[name].clamp_min(1e-30)).clamp(
                max=1
            )
            weight[special] *= factor[special]
            dampened, total = dampened + int(special.sum()), total + special.numel()
    log.epochs.append({"epoch": 1, "dampened_share": dampened / total})
    return unlearned, log.finish("weights were dampened once")


def importance(
    model: ImageTextModel, examples: Examples, batch_size: int, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Mean over batches of the squared gradient of CE(image) + CE(text), by parameter; evaluation
    mode."""
    model.eval()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    loader = make_loader(examples, batch_size)
    for batch in device_loader(loader, accelerator):
        model.zero_grad()
        output = model(batch["images"], batch["input_ids"], batch["attention_mask"])
        classification_loss(output, batch["labels"]).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                sums[name] += p.grad.square()
    model.zero_grad()
    return {name: value / len(loader) for name, value in sums.items()}
