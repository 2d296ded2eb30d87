"""Forget-MI (MICCAI 2025, arXiv 2506.23145): pull forgotten records to where F_og puts corrupted
copies of them, and hold everyone else where they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from forget_mi.config import config
from forget_mi.data import Examples, noisy_images, noisy_reports, tokenize
from forget_mi.errors import InputError
from forget_mi.losses import multimodal_distance, unimodal_distance
from forget_mi.models import Embeddings, ImageTextModel, JointEmbedding, joint_embedding_of
from forget_mi.unlearning.base import StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.held_out_targets import embeddings_of, held_out_outputs
from forget_mi.unlearning.loop import BatchOutput, UnlearningLoop
from forget_mi.unlearning.samplers import paired_sampler
from forget_mi.unlearning.search_space import LogUniform, OneOf, Uniform, Whole
from forget_mi.unlearning.teacher_outputs import TeacherOutputs


class Weights(NamedTuple):
    """Weights of the four losses; they sum to 1."""

    uu: float
    ur: float
    mu: float
    mr: float


SETTINGS = {
    "equal": Weights(0.25, 0.25, 0.25, 0.25),
    "multimodal": Weights(0.1, 0.1, 0.4, 0.4),
    "unimodal": Weights(0.4, 0.4, 0.1, 0.1),
    "retention": Weights(0.1, 0.4, 0.1, 0.4),
    "no_noise": Weights(0.25, 0.25, 0.25, 0.25),
    "held_out": Weights(0.25, 0.25, 0.25, 0.25),
}


@config
class Config(StepConfig):
    """setting: weights of the four losses (SETTINGS); no_noise also takes clean targets and
    maximises the forget distances up to `margin`; held_out takes forget targets from models that
    never saw the patient (not in the paper; see `held_out_outputs`). mu, sigma: image noise on
    [0, 1] pixels. text_noise: report noise level. start_noise: standard deviation, relative to each
    weight tensor's, of the random step away from F_og with which no_noise starts (its gradient is
    zero where both models agree). The rest: StepConfig.

    The paper's values: sigma .1, text_noise .5, 30 epochs, batch 16, learning rate 1e-4 or 1e-5,
    weight decay .01.
    """

    setting: Literal["equal", "multimodal", "unimodal", "retention", "no_noise", "held_out"] = (
        "equal"
    )
    mu: Annotated[float, Field(ge=-1, le=1)] = 0.0
    sigma: Annotated[float, Field(ge=0, le=10)] = 0.1
    text_noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    retain_batch: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    margin: Annotated[float, Field(gt=0)] = 5.0
    start_noise: Annotated[float, Field(ge=0, le=1)] = 0.01


# Batch norm is not searched: the targets are outputs of F_og in evaluation mode, and with batch
# statistics F_ul would not even start where the retention losses are zero.
SEARCH = {
    "learning_rate": LogUniform(1.7e-4, 6e-4),
    "sigma": Uniform(0.1, 0.3),
    "text_noise": OneOf((0.8,)),
    "epochs": Whole(11, 30),
    "least_steps": OneOf((8,)),
    "retain_batch": OneOf((8, 12, 16)),
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
    """F_ul from F_og (`model`, which is left as it is) and the log with each loss of each epoch.

    Each step takes a forget batch and a retain batch through F_ul in one pass, and compares with
    the outputs of F_og for them, computed once.
    """
    loop = UnlearningLoop(
        model, data, settings, seed=seed, accelerator=accelerator, progress=progress
    )
    joint = joint_embedding_of(model).to(accelerator.device)
    maximize = settings.setting == "no_noise"
    if maximize:
        perturb_weights(loop.unlearned, settings.start_noise, seed)
    if settings.setting == "held_out":
        strangers = embeddings_of(loop.original, data.validation, accelerator, loop.log)
        forget_targets = held_out_outputs(data, accelerator, loop.log, strangers).embeddings
    else:
        corrupted = data.forget if maximize else noisy_copies(data, settings, seed)
        forget_teacher = TeacherOutputs(loop.original, corrupted, accelerator, loop.log)
        forget_teacher.compute()
        forget_targets = forget_teacher.at(torch.arange(len(data.forget))).embeddings
    retain_teacher = TeacherOutputs(loop.original, data.retain, accelerator, loop.log)

    def loss(forget: BatchOutput, retain: BatchOutput) -> dict[str, Tensor]:
        losses = four_losses(
            forget.output.embeddings,
            Embeddings(*(z[forget.index] for z in forget_targets)),
            retain.output.embeddings,
            retain_teacher.at(retain.index).embeddings,
            joint,
            margin=settings.margin if maximize else None,
        )
        named = dict(zip(["uu", "ur", "mu", "mr"], losses, strict=True))
        return named | {"total": weighted_sum(losses, SETTINGS[settings.setting])}

    return loop.run(
        paired_sampler(data, settings),
        loss,
        description="Forget-MI",
        before_epoch=retain_teacher.compute_retained,
    )


def four_losses(
    z_forget: Embeddings,
    forget_target: Embeddings,
    z_retain: Embeddings,
    retain_target: Embeddings,
    joint: JointEmbedding,
    margin: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """UU, UR, MU and MR of a step, each averaged over its batch (paper, equations 1 to 4).

    margin: where given (setting no_noise), UU and MU become hinge(margin - d) of each record, so
    that minimising them drives its distance up to the margin and no further.
    """
    uu, mu = (
        unimodal_distance(z_forget, forget_target),
        multimodal_distance(z_forget, forget_target, joint),
    )
    ur, mr = (
        unimodal_distance(z_retain, retain_target),
        multimodal_distance(z_retain, retain_target, joint),
    )
    if margin is not None:
        uu, mu = relu(margin - uu), relu(margin - mu)
    return uu.mean(), ur.mean(), mu.mean(), mr.mean()


def weighted_sum(losses: tuple[Tensor, ...], weights: Weights) -> Tensor:
    """w_uu UU + w_ur UR + w_mu MU + w_mr MR."""
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))


def noisy_copies(data: UnlearningData, settings: Config, seed: int) -> Examples:
    """D_f with noisy images and noisy reports: one corrupted copy a record, drawn once."""
    f = data.forget
    generator = torch.Generator().manual_seed(seed)
    noisy = noisy_images(f.float_images(), settings.mu, settings.sigma, generator)
    if f.images.dtype == np.uint8:
        noisy = (noisy * 255).round().to(torch.uint8)
    if not f.input_ids.shape[1]:  # the model reads no reports
        return replace(f, images=noisy.numpy())
    if len(data.forget_reports) != len(f):
        raise InputError(
            f"{len(data.forget_reports)} forget_reports for {len(f)} records of D_f: Forget-MI "
            "perturbs the text of each"
        )
    reports = noisy_reports(data.forget_reports, settings.text_noise, seed)
    text = tokenize(reports, data.tokenizer, data.max_tokens)
    return replace(f, images=noisy.numpy(), **text)


def perturb_weights(model: nn.Module, scale: float, seed: int) -> None:
    """Move each weight tensor by Gaussian noise of `scale` times its own standard deviation, in
    place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter += scale * parameter.std() * noise
