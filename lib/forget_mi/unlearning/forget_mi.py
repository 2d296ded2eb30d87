"""Forget-MI (MICCAI 2025, arXiv 2506.23145): pull forgotten records to where F_og puts corrupted copies of them, and
hold everyone else where they are."""

from __future__ import annotations

import copy
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import nll_loss, relu
from tqdm.auto import tqdm

from forget_mi.batches import Batch, Examples, tokenize
from forget_mi.losses import multimodal_distance, unimodal_distance
from forget_mi.models import (
    Embeddings,
    ImageTextModel,
    JointEmbedding,
    ModelOutput,
    fused_probabilities,
    joint_embedding_of,
)
from forget_mi.params import config
from forget_mi.perturb import noisy_images, noisy_reports
from forget_mi.training import make_optimizer
from forget_mi.unlearning.base import OriginalEmbeddings, UnlearningData, UnlearningLog, fused_loss


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
}


# From this share of the validation loss on, the forget loss is measured in a pass of its own; before, the one that the
# steps see anyway, half a pass old, is near enough.
NEAR = 0.8


@config
class Config:
    """setting: weights of the four losses (SETTINGS); no_noise also takes clean targets and maximises the forget
    distances up to `margin`. mu, sigma: image noise on [0, 1] pixels. text_noise: report noise level. epochs: passes
    over D_f at most. batch_size: forget records a step at most; a small request is spread over at least
    `least_steps` steps a pass, so that those who stay are held as often as they are disturbed. retain_batch: retain
    records a step. learning_rate, weight_decay, beta2: AdamW. clip: largest gradient norm. batch_norm: whether it keeps
    F_og's running statistics (frozen) or takes each batch's. stop: 'validation' ends the run as soon as the
    cross-entropy on D_f has reached that of F_og on D_v; 'never' runs all epochs. start_noise: standard deviation,
    relative to each weight tensor's, of the random step away from F_og with which no_noise starts (its gradient is
    zero where both models agree).

    The paper's values: sigma .1, text_noise .5, 30 epochs, batch 16, learning rate 1e-4 or 1e-5, weight decay .01.
    """

    setting: Literal["equal", "multimodal", "unimodal", "retention", "no_noise"] = "equal"
    mu: Annotated[float, Field(ge=-1, le=1)] = 0.0
    sigma: Annotated[float, Field(ge=0, le=10)] = 0.1
    text_noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 16
    least_steps: Annotated[int, Field(ge=1)] = 1
    retain_batch: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch_norm: Literal["train", "frozen"] = "frozen"
    stop: Literal["validation", "never"] = "validation"
    margin: Annotated[float, Field(gt=0)] = 5.0
    start_noise: Annotated[float, Field(ge=0, le=1)] = 0.01


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

    Each step takes a forget batch and a retain batch through F_ul in one pass, and compares with what F_og said of
    them, computed once.
    """
    log = UnlearningLog()
    torch.manual_seed(seed)
    original = copy.deepcopy(model).to(accelerator.device).eval().requires_grad_(False)
    unlearned = copy.deepcopy(original).requires_grad_(True)
    joint = joint_embedding_of(model.settings).to(accelerator.device)
    maximise = settings.setting == "no_noise"
    if maximise:
        step_aside(unlearned, settings.start_noise, seed)
    noisy = data.forget if maximise else noisy_copies(data, settings, seed)
    forget_targets = OriginalEmbeddings(original, noisy, accelerator)
    forget_targets.prepare(np.arange(len(data.forget)))
    retain_targets = OriginalEmbeddings(original, data.retain, accelerator)
    optimizer = make_optimizer(unlearned, settings.learning_rate, settings.weight_decay, settings.beta2)
    wrapped, optimizer = accelerator.prepare(unlearned, optimizer)
    validation_loss = fused_loss(original, data.validation, accelerator)
    rng = np.random.default_rng([seed, 17])

    bar = tqdm(range(settings.epochs), desc="Forget-MI", unit="epoch", disable=not progress)
    for epoch in bar:
        order = rng.permutation(len(data.forget))
        steps = max(-(-len(order) // settings.batch_size), min(settings.least_steps, len(order)))
        forget_batches = np.array_split(order, steps)
        retained = draw_retained(rng, len(data.retain), settings.retain_batch * steps)
        retain_targets.prepare(retained)
        unlearned.train()
        if settings.batch_norm == "frozen":
            freeze_batch_norm(unlearned)
        sums, forget_total = torch.zeros(5, device=accelerator.device), torch.zeros((), device=accelerator.device)
        for forget_index, retain_index in zip(forget_batches, np.split(retained, steps), strict=True):
            output = forward_together(wrapped, data, forget_index, retain_index, accelerator.device)
            n = len(forget_index)
            z_forget, z_retain = (
                Embeddings(*(z[part] for z in output.embeddings)) for part in (slice(n), slice(n, None))
            )
            losses = four_losses(
                z_forget,
                forget_targets.at(torch.from_numpy(forget_index)),
                z_retain,
                retain_targets.at(torch.from_numpy(retain_index)),
                joint,
                margin=settings.margin if maximise else None,
            )
            total = weighted_sum(losses, SETTINGS[settings.setting])
            accelerator.backward(total)
            accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            sums += torch.stack([*losses, total]).detach()
            probabilities = fused_probabilities(output.image_logits[:n], output.text_logits[:n]).detach()
            labels = data.forget.labels[forget_index].to(accelerator.device)
            forget_total += nll_loss(probabilities.clamp_min(1e-12).log(), labels, reduction="sum")
        means = (sums / steps).tolist()
        forget_loss = forget_total.item() / len(order)
        if settings.stop == "validation" and forget_loss >= NEAR * validation_loss:
            forget_loss = fused_loss(unlearned, data.forget, accelerator)
        row = dict(zip(["uu", "ur", "mu", "mr", "total"], means, strict=True))
        row |= {"epoch": epoch + 1, "forget_loss": forget_loss, "validation_loss": validation_loss}
        log.epochs.append(row)
        bar.set_postfix(forget=f"{forget_loss:.2f}", validation=f"{validation_loss:.2f}")
        if not np.isfinite(means[-1]):
            raise FloatingPointError(f"Forget-MI: the loss is {means[-1]} in epoch {epoch + 1}; lower learning_rate")
        if settings.stop == "validation" and forget_loss >= validation_loss:
            return unlearned, log.finish("the forget loss reached the validation loss")
    return unlearned, log.finish("all epochs were run")


def four_losses(
    z_forget: Embeddings,
    forget_target: Embeddings,
    z_retain: Embeddings,
    retain_target: Embeddings,
    joint: JointEmbedding,
    margin: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """UU, UR, MU and MR of a step, each averaged over its batch (paper, equations 1 to 4).

    margin: where given (setting no_noise), UU and MU become hinge(margin - d) of each record, so that minimising them
    drives its distance up to the margin and no further.
    """
    uu, mu = unimodal_distance(z_forget, forget_target), multimodal_distance(z_forget, forget_target, joint)
    ur, mr = unimodal_distance(z_retain, retain_target), multimodal_distance(z_retain, retain_target, joint)
    if margin is not None:
        uu, mu = relu(margin - uu), relu(margin - mu)
    return uu.mean(), ur.mean(), mu.mean(), mr.mean()


def weighted_sum(losses: tuple[Tensor, ...], weights: Weights) -> Tensor:
    """w_uu UU + w_ur UR + w_mu MU + w_mr MR."""
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))


def noisy_copies(data: UnlearningData, settings: Config, seed: int) -> Examples:
    """D_f with noisy images and noisy reports: one corrupted copy a record, drawn once."""
    images = torch.from_numpy(np.asarray(data.forget.images)).float() / 255
    noisy = noisy_images(images, settings.mu, settings.sigma, torch.Generator().manual_seed(seed))
    text = tokenize(noisy_reports(data.forget_reports, settings.text_noise, seed), data.tokenizer, data.max_tokens)
    f = data.forget
    return Examples(
        images=(noisy * 255).round().to(torch.uint8).numpy(),
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        labels=f.labels,
        studies=f.studies,
        patients=f.patients,
        rows=f.rows,
    )


def draw_retained(rng: np.random.Generator, available: int, wanted: int) -> np.ndarray:
    """Positions of `wanted` retain records, without repetition until all have been drawn."""
    rounds = [rng.permutation(available) for _ in range(-(-wanted // available))]
    return np.concatenate(rounds)[:wanted]


def forward_together(
    model: nn.Module, data: UnlearningData, forget_index: np.ndarray, retain_index: np.ndarray, device: torch.device
) -> ModelOutput:
    """The output for a forget and then a retain batch from one pass."""
    batch = join(data.forget.__getitems__(forget_index), data.retain.__getitems__(retain_index))
    return model(*(batch[name].to(device, non_blocking=True) for name in ("images", "input_ids", "attention_mask")))


def join(a: Batch, b: Batch) -> Batch:
    """Two batches as one, reports padded to the longer."""
    longest = max(a["input_ids"].shape[1], b["input_ids"].shape[1])

    def pad(tokens: Tensor) -> Tensor:
        return nn.functional.pad(tokens, (0, longest - tokens.shape[1]))

    joined = {"images": torch.cat([a["images"], b["images"]])}
    for name in ("input_ids", "attention_mask"):
        joined[name] = torch.cat([pad(a[name]), pad(b[name])])
    return joined


def freeze_batch_norm(model: nn.Module) -> None:
    """Let batch normalisation use and keep F_og's running statistics, in place: the embeddings of a small batch, half
    of it forgotten records, then mean the same in the loop as afterwards."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def step_aside(model: nn.Module, scale: float, seed: int) -> None:
    """Move each weight tensor by Gaussian noise of `scale` times its own standard deviation, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter += scale * parameter.std() * noise
