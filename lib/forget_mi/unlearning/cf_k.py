"""CF-k: catastrophic forgetting in the last k layers (Goel et al., 2022, arXiv 2201.06640)."""

from __future__ import annotations

from typing import Annotated

from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.models import ImageTextModel
from forget_mi.unlearning import fine_tune
from forget_mi.unlearning.base import UnlearningData, UnlearningLog
from forget_mi.unlearning.layers import last_layers, train_only
from forget_mi.unlearning.loop import UnlearningLoop
from forget_mi.unlearning.search_space import Whole


@config
class Config(fine_tune.Config):
    """k: how many layers of each tower (residual blocks; encoder layers and the pooler) are trained
    beside the heads. The rest: as for fine-tuning."""

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
    """F_ul from F_og: the last k layers of each tower and the heads are trained on D_r, the others
    stay."""
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    train_only(loop.unlearned, last_layers(loop.unlearned, settings.k))
    unlearned, log = fine_tune.train_on_retained(loop, "CF-k")
    return unlearned.requires_grad_(True), log
