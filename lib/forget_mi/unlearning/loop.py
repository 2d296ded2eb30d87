"""The loop of gradient steps that unlearning methods share: which records a step sees, what F_og said of them, when to
stop. A method adds its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from tqdm.auto import tqdm

from forget_mi.data.batches import Batch, Examples
from forget_mi.models.image_text import ImageTextModel
from forget_mi.models.outputs import ModelOutput, fused_probabilities
from forget_mi.training.devices import in_turn, placed, release
from forget_mi.training.loop import hold_still, make_optimizer
from forget_mi.training.prediction import predict
from forget_mi.unlearning.base import FORWARD_ONLY, StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.samplers import Draw, Draws, cut, share

# From this share of the validation loss on, the forget loss is measured in a pass of its own; before, the one that the
# steps see anyway, half a pass old, is near enough.
NEAR = 0.8


class Half(NamedTuple):
    """One half of a step: the positions of its records (n), the batch, and what F_ul says of it."""

    index: Tensor
    batch: Batch
    output: ModelOutput

    def __bool__(self) -> bool:
        return len(self.index) > 0


Loss = Callable[[Half, Half], dict[str, Tensor]]


def take_steps(
    unlearned: ImageTextModel,
    data: UnlearningData,
    settings: StepConfig,
    draws: Draws,
    loss: Loss,
    *,
    original: ImageTextModel,
    log: UnlearningLog,
    seed: int,
    accelerator: Accelerator,
    before_epoch: Callable[[list[Draw]], None] | None = None,
    before_step: Callable[[Draw], None] | None = None,
    after_epoch: Callable[[dict[str, float]], None] | None = None,
    description: str,
    progress: bool,
) -> UnlearningLog:
    """Change `unlearned` in place, one optimiser step a draw; return the finished log, one row an epoch.

    draws(rng, epoch): the steps of an epoch. loss(forget, retain): named scalars of a step; 'total' is minimised, all
    are logged as means over the steps that had them. original: F_og, whose cross-entropy on D_v is where the stop rule
    stops. before_epoch sees the epoch's draws (to compute targets), before_step the one that is about to go through the
    model, after_epoch the epoch's row of the log.

    Raises FloatingPointError where the loss is not finite.
    """
    release(accelerator)
    optimizer = make_optimizer(unlearned, settings.learning_rate, settings.weight_decay, settings.beta2)
    wrapped, optimizer = accelerator.prepare(unlearned, optimizer)
    parameters = list(wrapped.parameters())
    validation_loss = None
    if settings.stop == "validation":
        validation_loss = fused_loss(original, data.validation, accelerator)
        log.work += FORWARD_ONLY * len(data.validation)
    rng = np.random.default_rng([seed, 17])

    bar = tqdm(range(settings.epochs), desc=description, unit="epoch", disable=not progress)
    for epoch in bar:
        # Every process draws the same steps, and takes its share of each.
        steps = [share(draw, accelerator.process_index, accelerator.num_processes) for draw in draws(rng, epoch)]
        if before_epoch is not None:
            before_epoch(steps)
        unlearned.train()
        hold_still(unlearned, all_batch_norm=settings.batch_norm == "frozen")
        sums, counts = {}, {}
        forget_total, forget_seen = torch.zeros((), device=accelerator.device), 0
        for number, draw in enumerate(steps):
            set_rate(optimizer, settings, (epoch + (number + 0.5) / len(steps)) / settings.epochs)
            parts = cut(draw, accelerator.parts)
            for part in in_turn(parts, wrapped, accelerator):
                if before_step is not None:
                    before_step(part)
                forget, retain = forward_together(wrapped, data, part, accelerator.device)
                values = loss(forget, retain)
                accelerator.backward(values["total"] / len(parts))
                for name, value in values.items():
                    sums[name] = sums.get(name, 0) + value.detach() / len(parts)
                    counts[name] = counts.get(name, 0) + 1 / len(parts)
                if forget:
                    forget_total += fused_nll_sum(forget)
                    forget_seen += len(part.forget)
            accelerator.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            log.work += (len(draw.forget) + len(draw.retain)) * accelerator.num_processes
        row = {name: float(accelerator.reduce(value, "mean")) / counts[name] for name, value in sums.items()}
        forget_total = accelerator.reduce(forget_total, "mean")
        if not np.isfinite(row["total"]):
            raise FloatingPointError(f"{description}: the loss is {row['total']} in epoch {epoch + 1}; lower the rate")
        forget_loss = float(forget_total) / forget_seen if forget_seen else float("nan")
        if forget_seen and validation_loss is not None and forget_loss >= NEAR * validation_loss:
            forget_loss = fused_loss(unlearned, data.forget, accelerator)
            log.work += FORWARD_ONLY * len(data.forget)
        row |= {"epoch": epoch + 1, "forget_loss": forget_loss}
        row |= {} if validation_loss is None else {"validation_loss": validation_loss}
        log.epochs.append(row)
        if after_epoch is not None:
            after_epoch(row)
        bar.set_postfix({name: f"{row[name]:.2f}" for name in ("forget_loss", "validation_loss") if name in row})
        if validation_loss is not None and forget_loss >= validation_loss:
            return log.finish("the forget loss reached the validation loss")
    return log.finish("all epochs were run")


WARMUP = 0.1


def set_rate(optimizer: torch.optim.Optimizer, settings: StepConfig, progress: float) -> None:
    """Set the learning rate, in place, for a step at `progress` (0 to 1) of the run."""
    factor = 1.0 if settings.schedule == "constant" else min(progress / WARMUP, (1 - progress) / (1 - WARMUP))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


def forward_together(model: nn.Module, data: UnlearningData, draw: Draw, device: torch.device) -> tuple[Half, Half]:
    """The forget and the retain half of a step, through the model in one pass."""
    batches = [
        examples.__getitems__(index) if len(index) else None
        for index, examples in ((draw.forget, data.forget), (draw.retain, data.retain))
    ]
    some = next(batch for batch in batches if batch is not None)
    batches = [{name: t[:0] for name, t in some.items()} if batch is None else batch for batch in batches]
    batches = [{name: t.to(device, non_blocking=True) for name, t in batch.items()} for batch in batches]
    joined = join(*batches)
    output = model(joined["images"], joined["input_ids"], joined["attention_mask"])
    n = len(draw.forget)
    parts = (ModelOutput(*(t[:n] for t in output)), ModelOutput(*(t[n:] for t in output)))
    return tuple(Half(batch["index"], batch, part) for batch, part in zip(batches, parts, strict=True))


def join(a: Batch, b: Batch) -> Batch:
    """Two batches as one, reports padded to the longer."""
    longest = max(a["input_ids"].shape[1], b["input_ids"].shape[1])

    def pad(tokens: Tensor) -> Tensor:
        return nn.functional.pad(tokens, (0, longest - tokens.shape[1]))

    joined = {"images": torch.cat([a["images"], b["images"]])}
    for name in ("input_ids", "attention_mask"):
        joined[name] = torch.cat([pad(a[name]), pad(b[name])])
    return joined


def fused_loss(model: ImageTextModel, examples: Examples, accelerator: Accelerator) -> float:
    """Mean cross-entropy of the fused prediction in evaluation mode, in nats: what stop rules compare."""
    return float(predict(model, examples, accelerator).cross_entropy("fused").mean())


def fused_nll_sum(half: Half) -> Tensor:
    """Summed cross-entropy of the fused prediction of a step's records, without a gradient."""
    probabilities = fused_probabilities(half.output.image_logits, half.output.text_logits).detach()
    return nll_loss(probabilities.clamp_min(1e-12).log(), half.batch["labels"], reduction="sum")


def frozen_and_trainable(model: ImageTextModel, accelerator: Accelerator) -> tuple[ImageTextModel, ImageTextModel]:
    """F_og, a frozen copy of the model in evaluation mode, and F_ul, a copy that can be trained."""
    original = placed(copy.deepcopy(model), accelerator).eval().requires_grad_(False)
    return original, copy.deepcopy(original).requires_grad_(True)
