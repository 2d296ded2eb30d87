"""MultiDelete: decouple the two modalities of a forgotten pair (Cheng and Amiri, ECCV 2024, arXiv
2311.12047)."""

from __future__ import annotations

from typing import Annotated

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from forget_mi.config import config
from forget_mi.models import Embeddings, ImageTextModel, joint_embedding_of
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import paired_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Whole
from forget_mi.unlearning.teacher_outputs import TeacherOutputs


@config
class Config(StepConfig):
    """decoupling, multimodal, unimodal: weights of the three losses, equal in the paper. The rest:
    StepConfig."""

    decoupling: Annotated[float, Field(ge=0)] = 1.0
    multimodal: Annotated[float, Field(ge=0)] = 1.0
    unimodal: Annotated[float, Field(ge=0)] = 1.0


# Batch norm is not searched, for the reason given in forget_mi.
SEARCH = {
    "learning_rate": LogUniform(1e-4, 2e-3),
    "decoupling": LogUniform(0.3, 10.0),
    "unimodal": LogUniform(0.01, 1.0),
    "epochs": Whole(5, 9),
    "least_steps": OneOf((8,)),
    "retain_batch": OneOf((24, 32)),
    "beta2": OneOf((0.98, 0.999)),
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
    """F_ul from F_og by three mean squared errors:
    - modality decoupling: J(F_ul(I_f, T_f)) to J(F_og(I_p), F_og(T_q)), p and q drawn at random
      from the forget batch, so that a forgotten pair is as loosely joined as an image and a report
      that have nothing to do with each other;
    - multimodal retention: J on D_r to F_og's;
    - unimodal retention: z_img and z_txt on D_f to F_og's (a modality alone is not forgotten).

    Departure: their fusion module is a trained part of their models; here it is J, the fixed joint
    embedding.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    joint = joint_embedding_of(model).to(accelerator.device)
    forget_teacher = TeacherOutputs(loop.original, data.forget, accelerator, loop.log)
    forget_teacher.compute()
    retain_teacher = TeacherOutputs(loop.original, data.retain, accelerator, loop.log)
    generator = torch.Generator().manual_seed(seed)

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, Tensor]:
        n = len(forget.index)
        p, q = (
            forget.index[drawn.to(forget.index.device, non_blocking=True)]
            for drawn in (torch.randint(n, (n,), generator=generator) for _ in range(2))
        )
        unrelated = Embeddings(
            forget_teacher.at(p).image_embedding, forget_teacher.at(q).text_embedding
        )
        z, target = forget.output.embeddings, forget_teacher.at(forget.index).embeddings
        decoupling = mse_loss(joint(z), joint(unrelated))
        multimodal = mse_loss(
            joint(retain.output.embeddings), joint(retain_teacher.at(retain.index).embeddings)
        )
        unimodal = sum(
            mse_loss(mine, theirs) for mine, theirs in zip(z, target, strict=True) if mine.shape[-1]
        )
        losses = {"decoupling": decoupling, "multimodal": multimodal, "unimodal": unimodal}
        total = sum(getattr(settings, name) * loss for name, loss in losses.items())
        return losses | {"total": total}

    return loop.run(
        paired_sampler(data, settings),
        loss,
        description="MultiDelete",
        before_epoch=retain_teacher.compute_retained,
    )
