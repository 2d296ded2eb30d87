"""SalUn: random labels for D_f, and only salient weights may change (Fan et al., ICLR 2024, arXiv
2310.12508)."""

from __future__ import annotations

from typing import Annotated

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor

from forget_mi.config import config
from forget_mi.data import device_loader, make_loader
from forget_mi.losses import classification_loss
from forget_mi.models import ImageTextModel
from forget_mi.training import eval_frozen_layers
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import paired_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Uniform, Whole


@config
class Config(StepConfig):
    """salient: share of the weights that may change, those with the largest gradient of the loss on
    D_f (the paper's default is one half). alpha: weight of the retain loss. weight_decay: none, it
    would move the other weights too. The rest: StepConfig."""

    salient: Annotated[float, Field(gt=0, le=1)] = 0.5
    alpha: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0, le=0)] = 0.0


SEARCH = {
    "learning_rate": LogUniform(3e-5, 1e-3),
    "salient": Uniform(0.1, 1.0),
    "alpha": LogUniform(0.3, 10.0),
    "epochs": Whole(2, 9),
    "least_steps": OneOf((8,)),
    "retain_batch": OneOf((24, 32)),
    "beta2": OneOf((0.98, 0.999)),
    "batch_norm": OneOf(("frozen", "train")),
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
    """F_ul from F_og by minimising CE on D_f with a random other label a record + alpha L(D_r) over
    the salient weights (their equations 3 to 5, the classification form).

    Departure: the random labels of an epoch are drawn again, and an epoch is a pass over D_f with
    retain records drawn along.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    unlearned = loop.unlearned
    masks = saliency_masks(unlearned, data, settings, accelerator, loop.log)
    generator = torch.Generator().manual_seed(seed)

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, Tensor]:
        labels = forget.batch["labels"]
        shift = torch.randint(1, unlearned.classes, labels.shape, generator=generator)
        shift = shift.to(labels.device, non_blocking=True)
        random_labels = (labels + shift) % unlearned.classes
        forget_loss = classification_loss(forget.output, random_labels)
        retain_loss = loop.training_loss(retain)
        return {
            "forget": forget_loss,
            "retain": retain_loss,
            "total": forget_loss + settings.alpha * retain_loss,
        }

    hooks = [
        p.register_hook(lambda gradient, m=masks[name]: gradient * m)
        for name, p in unlearned.named_parameters()
    ]
    result = loop.run(paired_sampler(data, settings), loss, description="SalUn")
    for hook in hooks:
        hook.remove()
    return result


def saliency_masks(
    model: ImageTextModel,
    data: UnlearningData,
    settings: Config,
    accelerator: Accelerator,
    log: UnlearningLog,
) -> dict[str, Tensor]:
    """1 where a weight is among the `salient` share of the model with the largest |gradient of
    L(D_f)|, else 0."""
    model.train()
    eval_frozen_layers(model, all_batch_norm=True)
    for batch in device_loader(make_loader(data.forget, 64), accelerator):
        output = model(batch["images"], batch["input_ids"], batch["attention_mask"])
        (classification_loss(output, batch["labels"]) * len(batch["labels"])).backward()
    log.work += len(data.forget)
    size = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.abs()
        for name, p in model.named_parameters()
    }
    model.zero_grad()
    everything = torch.cat([s.flatten() for s in size.values()])
    kept = max(1, round(settings.salient * everything.numel()))
    threshold = everything.kthvalue(everything.numel() - kept + 1).values
    return {name: (s >= threshold).float() for name, s in size.items()}
