"""EU-k: exact unlearning of the last k layers (Goel et al., 2022, arXiv 2201.06640)."""

from __future__ import annotations

from typing import Annotated

from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.models import ImageTextModel
from forget_mi.unlearning import cf_k, fine_tune
from forget_mi.unlearning.base import UnlearningData, UnlearningLog
from forget_mi.unlearning.layers import last_layers, reinitialize_last, train_only
from forget_mi.unlearning.loop import UnlearningLoop


@config
class Config(cf_k.Config):
    """As for CF-k; a layer that starts again needs a higher learning rate."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3


SEARCH = cf_k.SEARCH


def unlearn(
    model: ImageTextModel,
    data: UnlearningData,
    settings: Config,
    *,
    seed: int,
    accelerator: Accelerator,
    progress: bool = True,
) -> tuple[ImageTextModel, UnlearningLog]:
    """F_ul from F_og: the last k layers of each tower and the heads are drawn again and trained on
    D_r, the others stay."""
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    reinitialize_last(loop.unlearned, settings.k, seed)
    train_only(loop.unlearned, last_layers(loop.unlearned, settings.k))
    unlearned, log = fine_tune.train_on_retained(loop, "EU-k")
    return unlearned.requires_grad_(True), log
