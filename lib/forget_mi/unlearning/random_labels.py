"""Random labels: training goes on with wrong labels for D_f (the relabelling form of amnesiac
unlearning; Graves et al., AAAI 2021, arXiv 2010.10981)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.losses import classification_loss
from forget_mi.models import ImageTextModel
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import paired_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole


@config
class Config(StepConfig):
    """StepConfig. It runs all its epochs: the paper trains for a few."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    stop: Literal["never"] = "never"


SEARCH = {
    "learning_rate": LogUniform(3e-5, 2e-3),
    "epochs": Whole(1, 9),
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
    """F_ul from F_og by minimising the training loss where each record of D_f has a wrong label,
    drawn once; averaged over the records of a step (their section 4, 'unlearning').

    Departures: L on D_f is CE(image) + CE(text), without the ranking loss, which has no label to
    replace; an epoch is a pass over D_f with retain records drawn along, so that its cost is the
    request's, not the cohort's. SalUn differs by its saliency mask, and draws again every epoch.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    wrong = wrong_labels(data.forget.labels, model.classes, seed).to(accelerator.device)

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, torch.Tensor]:
        forget_loss = classification_loss(forget.output, wrong[forget.index])
        retain_loss = loop.training_loss(retain)
        n, m = len(forget.index), len(retain.index)
        total = (n * forget_loss + m * retain_loss) / (n + m)
        return {"forget": forget_loss, "retain": retain_loss, "total": total}

    return loop.run(paired_sampler(data, settings), loss, description="random labels")


def wrong_labels(labels: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    """For each label (n) one of the other classes, each as likely."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return (labels.cpu() + shift) % classes
