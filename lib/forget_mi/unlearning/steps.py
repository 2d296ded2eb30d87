"""The loop of gradient steps that unlearning methods share: which records a step sees, what F_og said of them, when to
stop. A method adds its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import nll_loss
from tqdm.auto import tqdm

from forget_mi.batches import Batch, Examples
from forget_mi.devices import in_turn, placed, release
from forget_mi.metrics import Predictions, predict
from forget_mi.models import ImageTextModel, ModelOutput, fused_probabilities
from forget_mi.params import config
from forget_mi.training import make_optimizer
from forget_mi.unlearning.base import FORWARD_ONLY, UnlearningData, UnlearningLog
from forget_mi.unlearning.kept import KeptOutputs

# From this share of the validation loss on, the forget loss is measured in a pass of its own; before, the one that the
# steps see anyway, half a pass old, is near enough.
NEAR = 0.8


@config
class StepConfig:
    """epochs: at most. batch_size: forget records a step at most; a small request is spread over at least `least_steps`
    steps a pass, so that those who stay are held as often as they are disturbed. retain_batch: retain records a step.
    learning_rate, weight_decay, beta2: AdamW. schedule: of the rate; 'linear' warms up over the first tenth of the run
    and decays to 0 at its end. clip: largest gradient norm. batch_norm: whether it keeps F_og's running
    statistics (frozen) or takes each batch's. stop: 'validation' ends the run as soon as the cross-entropy on D_f has
    reached that of F_og on D_v; 'never' runs all epochs, and asks nothing of D_v."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 8
    batch_size: Annotated[int, Field(ge=1)] = 16
    least_steps: Annotated[int, Field(ge=1)] = 1
    retain_batch: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    schedule: Literal["constant", "linear"] = "constant"
    clip: Annotated[float, Field(gt=0)] = 1.0
    batch_norm: Literal["train", "frozen"] = "frozen"
    stop: Literal["validation", "never"] = "validation"


class Draw(NamedTuple):
    """Which records a step sees: positions in D_f and in D_r; either may be empty."""

    forget: np.ndarray
    retain: np.ndarray


NONE = np.empty(0, dtype=np.int64)
Draws = Callable[[np.random.Generator, int], list[Draw]]


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


def share(draw: Draw, process: int, processes: int) -> Draw:
    """What one of several processes takes of a step: every `processes`-th record of each half. Gradients are averaged
    over processes, so where a half can't be cut evenly its records count a little unevenly; a half of fewer records
    than processes is taken whole by each."""
    return Draw(*(half if 0 < len(half) < processes else half[process::processes] for half in draw))


def cut(draw: Draw, parts: int) -> list[Draw]:
    """A step in parts that go through the model one after another, each with about the same share of both halves; a
    half of fewer records than parts allows only as many."""
    sizes = [len(half) for half in draw if len(half)]
    parts = max(1, min([parts, *sizes]))
    return [Draw(*halves) for halves in zip(*(np.array_split(half, parts) for half in draw), strict=True)]


# ---- which records a step sees ------------------------------------------------------------------------------------


def paced_by_forget(data: UnlearningData, settings: StepConfig) -> Draws:
    """An epoch is a pass over D_f; each step takes `retain_batch` records of D_r along. Its cost depends on the
    request, not on the size of the cohort."""

    def draws(rng: np.random.Generator, epoch: int) -> list[Draw]:
        batches = forget_batches(rng, len(data.forget), settings)
        retained = draw_in_rounds(rng, len(data.retain), settings.retain_batch * len(batches))
        return [Draw(f, r) for f, r in zip(batches, np.split(retained, len(batches)), strict=True)]

    return draws


def forget_only(data: UnlearningData, settings: StepConfig) -> Draws:
    """An epoch is a pass over D_f and nothing else."""
    return lambda rng, epoch: [Draw(f, NONE) for f in forget_batches(rng, len(data.forget), settings)]


def retain_only(data: UnlearningData, settings: StepConfig) -> Draws:
    """An epoch is a pass over D_r and nothing else."""
    return lambda rng, epoch: [Draw(NONE, r) for r in retain_batches(rng, len(data.retain), settings)]


def forget_batches(rng: np.random.Generator, records: int, settings: StepConfig) -> list[np.ndarray]:
    """D_f in random order, in batches of at most batch_size and in at least least_steps of them."""
    steps = max(-(-records // settings.batch_size), min(settings.least_steps, records))
    return np.array_split(rng.permutation(records), steps)


def retain_batches(rng: np.random.Generator, records: int, settings: StepConfig) -> list[np.ndarray]:
    """D_r in random order, in batches of at most retain_batch."""
    return np.array_split(rng.permutation(records), -(-records // settings.retain_batch))


def draw_in_rounds(rng: np.random.Generator, available: int, wanted: int) -> np.ndarray:
    """Positions of `wanted` records, without repetition until all have been drawn."""
    rounds = [rng.permutation(available) for _ in range(-(-wanted // available))]
    return np.concatenate(rounds)[:wanted]


def retained(draws: list[Draw]) -> np.ndarray:
    """The positions in D_r that an epoch's steps see, in their order."""
    return np.concatenate([draw.retain for draw in draws])


# ---- what the models say of them ----------------------------------------------------------------------------------


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


UNKNOWN = -1


class OriginalOutputs:
    """F_og's logits and embeddings of a set of records, each computed at most once, when first asked for.

    F_og is frozen, so what it says never changes; and records that are never drawn cost nothing. Evaluation mode,
    always: dropout or batch statistics would move the targets. kept: what earlier runs asked is taken from there, and
    what this one asks is added.
    """

    def __init__(
        self,
        model: ImageTextModel,
        examples: Examples,
        accelerator: Accelerator,
        log: UnlearningLog,
        kept: KeptOutputs | None = None,
    ):
        self._model, self._examples, self._accelerator, self._log = model, examples, accelerator, log
        self._kept = kept
        # Where in the values a record's are, or UNKNOWN: memory goes by the records asked of, not by the cohort's size.
        self._place = np.full(len(examples), UNKNOWN)
        self._values: ModelOutput | None = None

    def prepare(self, index: np.ndarray) -> None:
        """Compute what is still missing of the records at `index`, in one pass."""
        missing = np.unique(index[self._place[index] == UNKNOWN])
        rows = self._examples.rows.numpy()
        if self._kept is not None and len(missing):
            known, values = self._kept.of(rows[missing])
            self._take(missing[known], values)
            missing = missing[~known]
        if len(missing) == 0:
            return
        found = predict(self._model, self._examples.select(missing), self._accelerator)
        self._log.work += FORWARD_ONLY * len(missing)
        new = as_output(found, self._accelerator.device)
        self._take(missing, new)
        if self._kept is not None:
            self._kept.add(rows[missing], new)

    def _take(self, index: np.ndarray, new: ModelOutput | None) -> None:
        if len(index) == 0:
            return
        new = [t.to(self._accelerator.device) for t in new]
        before = 0 if self._values is None else len(self._values[0])
        self._place[index] = np.arange(before, before + len(index))
        self._values = ModelOutput(*(new if before == 0 else map(torch.cat, zip(self._values, new, strict=True))))

    def prepare_retained(self, draws: list[Draw]) -> None:
        """Compute what is missing of the retain records of an epoch's steps."""
        self.prepare(retained(draws))

    def at(self, index: Tensor) -> ModelOutput:
        """The output for records that were prepared."""
        place = torch.from_numpy(self._place[index.cpu().numpy()]).to(self._accelerator.device)
        return ModelOutput(*(t[place] for t in self._values))


def as_output(predictions: Predictions, device: torch.device) -> ModelOutput:
    """Predictions as tensors on a device."""
    return ModelOutput(*(torch.from_numpy(getattr(predictions, name)).to(device) for name in ModelOutput._fields))


def fused_loss(model: ImageTextModel, examples: Examples, accelerator: Accelerator) -> float:
    """Mean cross-entropy of the fused prediction in evaluation mode, in nats: what stop rules compare."""
    return float(predict(model, examples, accelerator).cross_entropy("fused").mean())


def fused_nll_sum(half: Half) -> Tensor:
    """Summed cross-entropy of the fused prediction of a step's records, without a gradient."""
    probabilities = fused_probabilities(half.output.image_logits, half.output.text_logits).detach()
    return nll_loss(probabilities.clamp_min(1e-12).log(), half.batch["labels"], reduction="sum")


# ---- the models ---------------------------------------------------------------------------------------------------


def frozen_and_trainable(model: ImageTextModel, accelerator: Accelerator) -> tuple[ImageTextModel, ImageTextModel]:
    """F_og, a frozen copy of the model in evaluation mode, and F_ul, a copy that can be trained."""
    original = placed(copy.deepcopy(model), accelerator).eval().requires_grad_(False)
    return original, copy.deepcopy(original).requires_grad_(True)


def hold_still(model: nn.Module, all_batch_norm: bool) -> None:
    """Put into evaluation mode, in place, the layers of which nothing is trained, and batch normalisation (all of it,
    or only there), which then uses and keeps F_og's running statistics: the embeddings of a small batch, half of it
    forgotten records, then mean the same in the loop as afterwards."""
    for module in model.modules():
        has_some = next(module.parameters(), None) is not None
        still = has_some and not any(p.requires_grad for p in module.parameters())
        if still or (all_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm)):
            module.eval()
