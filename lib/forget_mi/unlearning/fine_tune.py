"""Fine-tuning: train on D_r from F_og and hope that D_f fades (catastrophic forgetting; Golatkar et al., CVPR 2020,
arXiv 1911.04933, as a baseline)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.losses import training_loss
from forget_mi.models.image_text import ImageTextModel
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import Half, frozen_and_trainable, take_steps
from forget_mi.unlearning.samplers import retain_only
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole


@config
class Config(StepConfig):
    """epochs: passes over D_r. The rest: StepConfig (there is no forget batch, so the stop rule has nothing to see)."""

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
    torch.manual_seed(seed)
    original, unlearned = frozen_and_trainable(model, accelerator)
    log = train_on_retained(
        unlearned, data, settings, original=original, log=UnlearningLog(), seed=seed, accelerator=accelerator,
        description="fine-tune", progress=progress,
    )  # fmt: skip
    return unlearned, log


def train_on_retained(unlearned: ImageTextModel, data: UnlearningData, settings: StepConfig, **how) -> UnlearningLog:
    """Passes over D_r with the training loss; `how`: the rest of `take_steps`."""

    def loss(_: Half, retain: Half) -> dict[str, torch.Tensor]:
        return {"total": training_loss(retain.output, retain.batch["labels"], retain.batch["studies"])}

    return take_steps(unlearned, data, settings, retain_only(data, settings), loss, **how)
