"""NegGrad: gradient ascent on D_f (Golatkar et al., CVPR 2020, arXiv 1911.04933)."""

from __future__ import annotations

from typing import Annotated

import torch
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.losses import classification_loss
from forget_mi.models import ImageTextModel
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import forget_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole


@config
class Config(StepConfig):
    """epochs: passes over D_f at most; the ascent has no end of its own, so the stop rule matters.
    The rest: StepConfig."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4


SEARCH = {
    "learning_rate": LogUniform(1e-6, 1e-3),
    "epochs": Whole(2, 20),
    "batch_size": OneOf((16, 32)),
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
    """F_ul from F_og by maximising CE(image) + CE(text) on D_f.

    Departure: the ranking loss stays out of the ascent; its dot products would grow without bound,
    and it has nothing to do with the labels.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )

    def loss(forget: BatchOutput, _: BatchOutput) -> dict[str, torch.Tensor]:
        return {"total": -classification_loss(forget.output, forget.batch["labels"])}

    return loop.run(forget_sampler(data, settings), loss, description="NegGrad")
