"""SCRUB and SCRUB+R: a student that leaves its teacher on D_f and follows it on D_r (Kurmanji et
al., NeurIPS 2023, arXiv 2302.09880)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div

from forget_mi.config import config
from forget_mi.losses import classification_loss
from forget_mi.models import ImageTextModel, ModelOutput
from forget_mi.training import predict
from forget_mi.unlearning.base import FORWARD_ONLY, StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import StepIndices, forget_sampler, retain_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole
from forget_mi.unlearning.teacher_outputs import TeacherOutputs


@config
class Config(StepConfig):
    """setting: 'last' is SCRUB, 'rewind' SCRUB+R. alpha: weight of the divergence from the teacher
    on D_r. gamma: of the cross-entropy on D_r. temperature: of both softmaxes. max_epochs: so many
    epochs, the first, begin with a pass over D_f (their msteps). epochs: passes over D_r. The rest:
    StepConfig."""

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
    """F_ul, the student, from F_og, the teacher: max steps (a pass over D_f that maximises
    KL(teacher || student)) at the start of the first `max_epochs` epochs, min steps (a pass over
    D_r, gamma CE + alpha KL) in all of them, each summed over the towers (their equations 1 to 3).

    rewind: of the models after each epoch, the one whose error on D_f is nearest to the last one's
    error on comparable records that were never seen: D_v.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    student, log = loop.unlearned, loop.log
    forget_teacher = TeacherOutputs(loop.original, data.forget, accelerator, log)
    forget_teacher.compute()
    retain_teacher = TeacherOutputs(loop.original, data.retain, accelerator, log)
    retain_teacher.compute()
    max_steps, min_steps = forget_sampler(data, settings), retain_sampler(data, settings)

    def sampler(rng: np.random.Generator, epoch: int) -> list[StepIndices]:
        first = max_steps(rng, epoch) if epoch < settings.max_epochs else []
        return first + min_steps(rng, epoch)

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, Tensor]:
        if forget:
            divergence = towers_divergence(
                forget_teacher.at(forget.index), forget.output, settings.temperature
            )
            return {"forget_divergence": divergence, "total": -divergence}
        divergence = towers_divergence(
            retain_teacher.at(retain.index), retain.output, settings.temperature
        )
        error = classification_loss(retain.output, retain.batch["labels"])
        total = settings.gamma * error + settings.alpha * divergence
        return {"retain_divergence": divergence, "retain_loss": error, "total": total}

    weights_by_epoch: list[dict[str, Tensor]] = []

    def save_weights(row: dict[str, float]) -> None:
        weights_by_epoch.append(
            {name: t.detach().cpu().clone() for name, t in student.state_dict().items()}
        )
        row["forget_error"] = fused_error(student, data.forget, accelerator)
        log.work += FORWARD_ONLY * len(data.forget)

    rewinds = settings.setting == "rewind"
    loop.run(sampler, loss, description="SCRUB", after_epoch=save_weights if rewinds else None)
    if rewinds:
        target = fused_error(student, data.validation, accelerator)
        log.work += FORWARD_ONLY * len(data.validation)
        epoch = int(np.argmin([abs(row["forget_error"] - target) for row in log.epochs]))
        student.load_state_dict(weights_by_epoch[epoch])
        log.finish(f"rewound to epoch {epoch + 1} of {len(weights_by_epoch)}")
    return student, log


def towers_divergence(teacher: ModelOutput, student: ModelOutput, temperature: float) -> Tensor:
    """KL(teacher || student) of the softened predictions, averaged over the batch, times
    temperature squared, summed over the towers."""
    return (
        sum(
            kl_div(
                (s / temperature).log_softmax(-1),
                (t / temperature).log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
            for t, s in zip(teacher.logits, student.logits, strict=True)
        )
        * temperature**2
    )


def fused_error(model: ImageTextModel, examples, accelerator: Accelerator) -> float:
    """Share of records whose most probable class is wrong."""
    seen = predict(model, examples, accelerator)
    return float((seen.probabilities("fused").argmax(-1) != seen.labels).mean())
