"""NegGrad+: descent on D_r and ascent on D_f at once (Kurmanji et al., NeurIPS 2023, arXiv 2302.09880)."""

from __future__ import annotations

from typing import Annotated

import torch
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.losses import classification_loss, training_loss
from forget_mi.models.image_text import ImageTextModel
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import Half, frozen_and_trainable, take_steps
from forget_mi.unlearning.samplers import paced_by_forget
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

    Departures: L on D_f is CE(image) + CE(text), without the ranking loss (see neg_grad); an epoch is a pass over D_f
    with retain records drawn along, so that its cost is the request's, not the cohort's.
    """
    torch.manual_seed(seed)
    original, unlearned = frozen_and_trainable(model, accelerator)

    def loss(forget: Half, retain: Half) -> dict[str, torch.Tensor]:
        stay = training_loss(retain.output, retain.batch["labels"], retain.batch["studies"])
        leave = classification_loss(forget.output, forget.batch["labels"])
        total = settings.alpha * stay - (1 - settings.alpha) * leave
        return {"retain": stay, "forget": leave, "total": total}

    log = take_steps(
        unlearned, data, settings, paced_by_forget(data, settings), loss, original=original, log=UnlearningLog(),
        seed=seed, accelerator=accelerator, description="NegGrad+", progress=progress,
    )  # fmt: skip
    return unlearned, log
