"""SCRUB and SCRUB+R: a student that leaves its teacher on D_f and follows it on D_r (Kurmanji et al., NeurIPS 2023,
arXiv 2302.09880)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div

from forget_mi.config import config
from forget_mi.losses import classification_loss
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.outputs import ModelOutput
from forget_mi.training.prediction import predict
from forget_mi.unlearning.base import FORWARD_ONLY, StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import Half, frozen_and_trainable, take_steps
from forget_mi.unlearning.samplers import Draw, forget_only, retain_only
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole
from forget_mi.unlearning.teacher_outputs import OriginalOutputs


@config
class Config(StepConfig):
    """setting: 'last' is SCRUB, 'rewind' SCRUB+R. alpha: weight of the divergence from the teacher on D_r. gamma: of
    the cross-entropy on D_r. temperature: of both softmaxes. max_epochs: so many epochs, the first, begin with a
    pass over D_f (their msteps). epochs: passes over D_r. The rest: StepConfig."""

    setting: Literal["last", "rewind"] = "last"
    alpha: Annotated[float, Field(ge=0)] = 0.5
    gamma: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    max_epochs: Annotated[int, Field(ge=1)] = 2
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 2
    stop: Literal["never"] = "never"


SEARCH = {
    "learning_rate": LogUniform(5e-5, 2e-3),
    "alpha": LogUniform(0.05, 2.0),
    "gamma": OneOf((0.1, 0.5, 1.0)),
    "temperature": OneOf((2.0, 4.0)),
    "epochs": Whole(1, 3),
    "max_epochs": Whole(1, 2),
    "batch_size": OneOf((16, 32, 64)),
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
    """F_ul, the student, from F_og, the teacher: max steps (a pass over D_f that maximises KL(teacher || student)) at
    the start of the first `max_epochs` epochs, min steps (a pass over D_r, gamma CE + alpha KL) in all of them, each
    summed over the towers (their equations 1 to 3).

    rewind: of the models after each epoch, the one whose error on D_f is nearest to the last one's error on comparable
    records that were never seen: D_v.
    """
    log = UnlearningLog()
    torch.manual_seed(seed)
    teacher, student = frozen_and_trainable(model, accelerator)
    taught_forget = OriginalOutputs(teacher, data.forget, accelerator, log)
    taught_forget.prepare(np.arange(len(data.forget)))
    taught_retain = OriginalOutputs(teacher, data.retain, accelerator, log, data.kept)
    taught_retain.prepare(np.arange(len(data.retain)))
    over_forget, over_retain = forget_only(data, settings), retain_only(data, settings)

    def draws(rng: np.random.Generator, epoch: int) -> list[Draw]:
        return (over_forget(rng, epoch) if epoch < settings.max_epochs else []) + over_retain(rng, epoch)

    def loss(forget: Half, retain: Half) -> dict[str, Tensor]:
        if forget:
            divergence = towers_divergence(taught_forget.at(forget.index), forget.output, settings.temperature)
            return {"forget_divergence": divergence, "total": -divergence}
        divergence = towers_divergence(taught_retain.at(retain.index), retain.output, settings.temperature)
        error = classification_loss(retain.output, retain.batch["labels"])
        total = settings.gamma * error + settings.alpha * divergence
        return {"retain_divergence": divergence, "retain_loss": error, "total": total}

    kept: list[dict[str, Tensor]] = []

    def keep(row: dict[str, float]) -> None:
        kept.append({name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()})
        row["forget_error"] = fused_error(student, data.forget, accelerator)
        log.work += FORWARD_ONLY * len(data.forget)

    take_steps(
        student, data, settings, draws, loss, original=teacher, log=log, seed=seed, accelerator=accelerator,
        after_epoch=keep if settings.setting == "rewind" else None, description="SCRUB", progress=progress,
    )  # fmt: skip
    if settings.setting == "rewind":
        aim = fused_error(student, data.validation, accelerator)
        log.work += FORWARD_ONLY * len(data.validation)
        distances = [abs(row["forget_error"] - aim) for row in log.epochs]
        epoch = int(np.argmin(distances))
        student.load_state_dict(kept[epoch])
        log.finish(f"rewound to epoch {epoch + 1} of {len(kept)}")
    return student, log


def towers_divergence(teacher: ModelOutput, student: ModelOutput, temperature: float) -> Tensor:
    """KL(teacher || student) of the softened predictions, averaged over the batch, times temperature squared, summed
    over the towers."""
    return sum(
        kl_div((s / temperature).log_softmax(-1), (t / temperature).log_softmax(-1), log_target=True,
               reduction="batchmean")
        for t, s in zip(teacher.logits, student.logits, strict=True)
    ) * temperature**2  # fmt: skip


def fused_error(model: ImageTextModel, examples, accelerator: Accelerator) -> float:
    """Share of records whose most probable class is wrong."""
    seen = predict(model, examples, accelerator)
    return float((seen.probabilities("fused").argmax(-1) != seen.labels).mean())
