"""Fine-tuning: train on D_r from F_og and hope that D_f fades (catastrophic forgetting; Golatkar et
al., CVPR 2020, arXiv 1911.04933, as a baseline)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.models import ImageTextModel
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import retain_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole


@config
class Config(StepConfig):
    """epochs: passes over D_r. The rest: StepConfig (there is no forget batch, so the stop rule has
    nothing to see)."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 3
    stop: Literal["never"] = "never"


SEARCH = {
    "learning_rate": LogUniform(1e-4, 5e-3),
    "epochs": Whole(1, 3),
    "retain_batch": OneOf((16, 32)),
    "weight_decay": OneOf((0.0, 0.01, 0.1)),
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
    """F_ul from F_og by minimising L(D_r), the training loss."""
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    return train_on_retained(loop, "fine-tuning")


def train_on_retained(
    loop: UnlearningLoop, description: str
) -> tuple[ImageTextModel, UnlearningLog]:
    """Passes over D_r with the training loss."""

    def loss(_: BatchOutput, retain: BatchOutput) -> dict[str, torch.Tensor]:
        return {"total": loop.training_loss(retain)}

    return loop.run(retain_sampler(loop.data, loop.settings), loss, description=description)
