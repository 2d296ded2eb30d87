"""The unlearning loop: gradient steps on forget and retain batches, and when to stop. A method adds
its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from tqdm.auto import tqdm

from forget_mi.data import Batch, Examples, placed, stored_batch, to_device_ahead
from forget_mi.losses import training_loss
from forget_mi.models import ImageTextModel, ModelOutput, fused_probabilities
from forget_mi.training import (
    accumulate_gradients,
    card_errors,
    clear_accelerator,
    eval_frozen_layers,
    make_optimizer,
    predict,
    recomputed,
    to_device,
)
from forget_mi.unlearning.base import FORWARD_ONLY, StepConfig, UnlearningData, UnlearningLog
from forget_mi.unlearning.rewinding import rewind
from forget_mi.unlearning.samplers import BatchSampler, StepIndices, micro_batches, shard

# From this share of the validation loss on, the forget loss is measured in a pass of its own.
# Before, the mean over the epoch's steps, half an epoch old, is near enough.
NEAR = 0.8
WARMUP = 0.1


class BatchOutput(NamedTuple):
    """The forget or the retain part of a step: positions of its records (n), the batch, and the
    outputs of F_ul."""

    index: Tensor
    batch: Batch
    output: ModelOutput

    def __bool__(self) -> bool:
        return len(self.index) > 0


# (forget, retain) -> named scalars; 'total' is minimised.
UnlearningLoss = Callable[[BatchOutput, BatchOutput], dict[str, Tensor]]


class UnlearningLoop:
    """F_og and F_ul of one unlearning, and the steps that change F_ul.

    original: a frozen copy of the model in evaluation mode. unlearned: a copy that is trained,
    rewound as settings.rewind says. log: starts its clock now. The model itself is left as it is.
    """

    def __init__(
        self,
        model: ImageTextModel,
        data: UnlearningData,
        settings: StepConfig,
        *,
        seed: int,
        accelerator: Accelerator,
        progress: bool = True,
    ):
        self.settings, self.seed, self.accelerator = settings, seed, accelerator
        self.data = replace(
            data, forget=placed(data.forget, accelerator), retain=placed(data.retain, accelerator)
        )
        self.progress = progress
        self.log = UnlearningLog()
        torch.manual_seed(seed)
        self.original, self.unlearned = frozen_and_trainable(model, accelerator)
        if settings.rewind:
            rewind(self.unlearned, settings.rewind)

    def run(
        self,
        sampler: BatchSampler,
        loss: UnlearningLoss,
        *,
        description: str,
        before_epoch: Callable[[Sequence[StepIndices]], None] | None = None,
        after_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> tuple[ImageTextModel, UnlearningLog]:
        """Change F_ul, one optimiser step for each step of the sampler; return it and the finished
        log, one row an epoch with the mean of each named scalar.

        before_epoch is given the epoch's steps (to compute teacher outputs), after_epoch the
        epoch's row of the log.

        Raises FloatingPointError where the loss is not finite.
        """
        settings, accelerator, log = self.settings, self.accelerator, self.log
        clear_accelerator(accelerator)
        optimizer = make_optimizer(
            self.unlearned, settings.learning_rate, settings.weight_decay, settings.beta2
        )
        wrapped, optimizer = accelerator.prepare(self.unlearned, optimizer)
        validation_loss = None
        if settings.stop == "validation":
            validation_loss = self._fused_loss(self.original, self.data.validation)
        rng = np.random.default_rng([self.seed, 17])
        bar = tqdm(
            range(settings.epochs), desc=description, unit="epoch", disable=not self.progress
        )
        for epoch in bar:
            # Every process draws the same steps, and takes its share of each.
            steps = [
                shard(s, accelerator.process_index, accelerator.num_processes)
                for s in sampler(rng, epoch)
            ]
            if before_epoch is not None:
                before_epoch(steps)
            with card_errors(accelerator), recomputed(self.unlearned, accelerator):
                row, forget_loss = self._epoch(wrapped, optimizer, steps, loss, epoch)
            if not np.isfinite(row["total"]):
                raise FloatingPointError(
                    f"{description}: the loss is {row['total']} in epoch {epoch + 1}; lower the "
                    "rate"
                )
            if validation_loss is not None and forget_loss >= NEAR * validation_loss:
                forget_loss = self._fused_loss(self.unlearned, self.data.forget)
            row |= {"epoch": epoch + 1, "forget_loss": forget_loss}
            row |= {} if validation_loss is None else {"validation_loss": validation_loss}
            log.epochs.append(row)
            if after_epoch is not None:
                after_epoch(row)
            shown = [name for name in ("forget_loss", "validation_loss") if name in row]
            bar.set_postfix({name: f"{row[name]:.2f}" for name in shown})
            if validation_loss is not None and forget_loss >= validation_loss:
                return self.unlearned, log.finish("the forget loss reached the validation loss")
        return self.unlearned, log.finish("all epochs were run")

    def training_loss(self, part: BatchOutput) -> Tensor:
        """What F_og was trained with, of the forget or the retain part of a step; a scalar."""
        labels, studies = part.batch["labels"], part.batch["studies"]
        return training_loss(part.output, labels, studies, self.original.settings.ranking)

    def _fused_loss(self, model: ImageTextModel, examples: Examples) -> float:
        """Mean cross-entropy of the fused prediction; it counts as work."""
        self.log.work += FORWARD_ONLY * len(examples)
        return fused_loss(model, examples, self.accelerator)

    def _epoch(
        self,
        wrapped: nn.Module,
        optimizer,
        steps: Sequence[StepIndices],
        loss: UnlearningLoss,
        epoch: int,
    ) -> tuple[dict[str, float], float]:
        """One epoch: the mean of each named scalar over the steps that had it, and the mean
        cross-entropy on D_f as the steps saw it (NaN without forget records)."""
        settings, accelerator = self.settings, self.accelerator
        parameters = list(wrapped.parameters())
        self.unlearned.train()
        eval_frozen_layers(self.unlearned, all_batch_norm=settings.batch_norm == "frozen")
        sums, counts = {}, {}
        forget_total, forget_count = torch.zeros((), device=accelerator.device), 0
        parts_of = [micro_batches(step, accelerator.parts) for step in steps]
        batches = to_device_ahead(
            (joined_batch(self.data, part) for parts in parts_of for part in parts), accelerator
        )
        for number, (step, parts) in enumerate(zip(steps, parts_of, strict=True)):
            set_learning_rate(
                optimizer, settings, (epoch + (number + 0.5) / len(steps)) / settings.epochs
            )
            for part in accumulate_gradients(parts, wrapped, accelerator):
                forget, retain = forward_step(wrapped, next(batches), len(part.forget))
                values = loss(forget, retain)
                accelerator.backward(values["total"] / len(parts))
                for name, value in values.items():
                    sums[name] = sums.get(name, 0) + value.detach() / len(parts)
                    counts[name] = counts.get(name, 0) + 1 / len(parts)
                if forget:
                    forget_total += fused_nll_sum(forget)
                    forget_count += len(part.forget)
            accelerator.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            self.log.work += (len(step.forget) + len(step.retain)) * accelerator.num_processes
        row = {
            name: float(accelerator.reduce(value, "mean")) / counts[name]
            for name, value in sums.items()
        }
        forget_total = accelerator.reduce(forget_total, "mean")
        return row, float(forget_total) / forget_count if forget_count else float("nan")


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: StepConfig, progress: float
) -> None:
    """Set the learning rate, in place, for a step at `progress` (0 to 1) of the run."""
    factor = (
        1.0
        if settings.schedule == "constant"
        else min(progress / WARMUP, (1 - progress) / (1 - WARMUP))
    )
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


def joined_batch(data: UnlearningData, step: StepIndices) -> Batch:
    """The records of a step as one batch, those of D_f first."""
    return stored_batch([(data.forget, step.forget), (data.retain, step.retain)])


def forward_step(model: nn.Module, batch: Batch, forget: int) -> tuple[BatchOutput, BatchOutput]:
    """The forget and the retain batch of a step, whose first `forget` records are of D_f, through
    the model in one pass."""
    output = model(batch["images"], batch["input_ids"], batch["attention_mask"])
    sides = [slice(None, forget), slice(forget, None)]
    return tuple(
        BatchOutput(
            batch["index"][side],
            {name: t[side] for name, t in batch.items()},
            ModelOutput(*(t[side] for t in output)),
        )
        for side in sides
    )


def fused_loss(model: ImageTextModel, examples: Examples, accelerator: Accelerator) -> float:
    """Mean cross-entropy of the fused prediction in evaluation mode, in nats: what the stop rule
    compares."""
    return float(predict(model, examples, accelerator).cross_entropy("fused").mean())


def fused_nll_sum(batch: BatchOutput) -> Tensor:
    """Summed cross-entropy of the fused prediction of a batch, without a gradient."""
    probabilities = fused_probabilities(
        batch.output.image_logits, batch.output.text_logits
    ).detach()
    return nll_loss(probabilities.clamp_min(1e-12).log(), batch.batch["labels"], reduction="sum")


def frozen_and_trainable(
    model: ImageTextModel, accelerator: Accelerator
) -> tuple[ImageTextModel, ImageTextModel]:
    """F_og, a frozen copy of the model in evaluation mode, and F_ul, a copy that can be trained."""
    original = to_device(copy.deepcopy(model), accelerator).eval().requires_grad_(False)
    return original, copy.deepcopy(original).requires_grad_(True)
