"""Retraining: a new model that only ever meets D_r. The gold standard, called like an approximate
method."""

from __future__ import annotations

from accelerate import Accelerator

from forget_mi.config import config
from forget_mi.models import ImageTextModel, reinitialized
from forget_mi.training import TrainingConfig, train
from forget_mi.unlearning.base import UnlearningData, UnlearningLog


@config
class Config(TrainingConfig):
    """TrainingConfig; the defaults are not the profile's `training`, so give those here."""


SEARCH: dict = {}


def unlearn(
    model: ImageTextModel,
    data: UnlearningData,
    settings: Config,
    *,
    seed: int,
    accelerator: Accelerator,
    progress: bool = True,
) -> tuple[ImageTextModel, UnlearningLog]:
    """New weights drawn from the seed, trained on D_r.

    Departure from the retrained models of notebook 02, which audits compare with: the vocabulary of
    the text tower is still F_og's, learned with the forgotten reports among others. A pretrained
    text tower starts from random weights.
    """
    log = UnlearningLog()
    new = reinitialized(model, seed)
    trained = train(
        new,
        data.retain,
        data.validation,
        settings,
        seed=seed,
        accelerator=accelerator,
        progress=progress and "retrain",
    )
    log.epochs, log.work = trained.epochs, float(len(data.retain) * settings.epochs)
    return new, log.finish("all epochs were run")
