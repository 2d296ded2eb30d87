"""Bad Teacher: a student that follows an untrained teacher on D_f and F_og on D_r (Chundawat et
al., AAAI 2023, arXiv 2205.08096)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from pydantic import Field

from forget_mi.config import config
from forget_mi.models import ImageTextModel, reinitialized
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import paired_sampler
from forget_mi.unlearning.scrub import towers_divergence
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole
from forget_mi.unlearning.teacher_outputs import TeacherOutputs


@config
class Config(StepConfig):
    """temperature: of both softmaxes. The rest: StepConfig; it runs all its epochs, of which the
    paper has one."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    stop: Literal["never"] = "never"


SEARCH = {
    "learning_rate": LogUniform(3e-5, 2e-3),
    "temperature": OneOf((1.0, 2.0, 4.0)),
    "epochs": Whole(1, 7),
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
    """F_ul, the student, from F_og, the competent teacher, by minimising

        l_u KL(untrained(x) || F_ul(x)) + (1 - l_u) KL(F_og(x) || F_ul(x))

    averaged over the records of a step and summed over the towers, with l_u = 1 on D_f and 0 on D_r
    (their equation 3). The untrained teacher has F_og's architecture and weights drawn from the
    seed.

    Departure: an epoch is a pass over D_f with retain records drawn along, not a pass over D_f and
    a fixed 30 % of D_r.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    untrained = reinitialized(loop.original, seed).to(accelerator.device)
    untrained = untrained.eval().requires_grad_(False)
    bad = TeacherOutputs(untrained, data.forget, accelerator, loop.log)
    good = TeacherOutputs(loop.original, data.retain, accelerator, loop.log)
    bad.compute()

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, torch.Tensor]:
        to_bad = towers_divergence(bad.at(forget.index), forget.output, settings.temperature)
        to_good = towers_divergence(good.at(retain.index), retain.output, settings.temperature)
        n, m = len(forget.index), len(retain.index)
        return {"forget": to_bad, "retain": to_good, "total": (n * to_bad + m * to_good) / (n + m)}

    return loop.run(
        paired_sampler(data, settings),
        loss,
        description="Bad Teacher",
        before_epoch=good.compute_retained,
    )
