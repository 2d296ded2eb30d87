"""NegGrad+: descent on D_r and ascent on D_f at once (Kurmanji et al., NeurIPS 2023, arXiv
2302.09880)."""

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
from forget_mi.unlearning.samplers import paired_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Uniform, Whole


@config
class Config(StepConfig):
    """alpha: weight of D_r; published values lie between .95 and .9999. The rest: StepConfig."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.95
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 5


SEARCH = {
    "learning_rate": LogUniform(1e-5, 1e-3),
    "alpha": Uniform(0.8, 0.99),
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
    """F_ul from F_og by minimising alpha L(D_r) - (1 - alpha) L(D_f) (their equation 4).

    Departures: L on D_f is CE(image) + CE(text), without the ranking loss (see neg_grad); an epoch
    is a pass over D_f with retain records drawn along, so that its cost is the request's, not the
    cohort's.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, torch.Tensor]:
        retain_loss = loop.training_loss(retain)
        forget_loss = classification_loss(forget.output, forget.batch["labels"])
        total = settings.alpha * retain_loss - (1 - settings.alpha) * forget_loss
        return {"retain": retain_loss, "forget": forget_loss, "total": total}

    return loop.run(paired_sampler(data, settings), loss, description="NegGrad+")
