"""CF-k: catastrophic forgetting in the last k layers (Goel et al., 2022, arXiv 2201.06640)."""

from __future__ import annotations

from typing import Annotated

import torch
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.models.image_text import ImageTextModel
from forget_mi.unlearning import fine_tune
from forget_mi.unlearning.base import UnlearningData, UnlearningLog
from forget_mi.unlearning.layers import FrozenFeatures, last_layers, reinitialise, train_only
from forget_mi.unlearning.loop import frozen_and_trainable
from forget_mi.unlearning.samplers import retained
from forget_mi.unlearning.search_space import Whole


@config
class Config(fine_tune.Config):
    """k: how many layers of each tower (residual blocks; encoder layers and the pooler) are trained beside the heads.
    The rest: as for fine-tuning."""

    k: Annotated[int, Field(ge=1, le=1000)] = 2


SEARCH = {**fine_tune.SEARCH, "k": Whole(1, 6)}


def unlearn(
    model: ImageTextModel,
    data: UnlearningData,
    settings: Config,
    *,
    seed: int,
    accelerator: Accelerator,
    progress: bool = True,
) -> tuple[ImageTextModel, UnlearningLog]:
    """F_ul from F_og: the last k layers of each tower and the heads are trained on D_r, the others stay."""
    return train_last(model, data, settings, False, seed, accelerator, "CF-k", progress)


def train_last(
    model: ImageTextModel,
    data: UnlearningData,
    settings: Config,
    anew: bool,
    seed: int,
    accelerator: Accelerator,
    description: str,
    progress: bool,
) -> tuple[ImageTextModel, UnlearningLog]:
    """Train the last k layers on D_r; anew: from new weights (EU-k) rather than F_og's (CF-k)."""
    torch.manual_seed(seed)
    original, unlearned = frozen_and_trainable(model, accelerator)
    if anew:
        reinitialise(unlearned, settings.k, seed)
    train_only(unlearned, last_layers(unlearned, settings.k))
    with FrozenFeatures(unlearned, data.retain, accelerator) as below:
        log = fine_tune.train_on_retained(
            unlearned, data, settings, original=original, log=UnlearningLog(), seed=seed, accelerator=accelerator,
            before_epoch=lambda draws: below.prepare(retained(draws)),
            before_step=lambda draw: below.show(draw.retain), description=description, progress=progress,
        )  # fmt: skip
    return unlearned.requires_grad_(True), log
