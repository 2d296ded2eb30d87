"""One loop that trains the original model, retrains without a request, and serves every method that
fine-tunes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from forget_mi.data import (
    Batch,
    Cohort,
    Examples,
    device_loader,
    make_examples,
    make_loader,
    placed,
    rows_of,
    split_batch,
)
from forget_mi.errors import InputError
from forget_mi.losses import training_loss
from forget_mi.metrics import mean_auc
from forget_mi.models import (
    ImageTextModel,
    ModelConfig,
    ModelOutput,
    build_model,
    build_tokenizer,
    vocabulary_size,
)
from forget_mi.training.config import TrainingConfig
from forget_mi.training.devices import (
    accumulate_gradients,
    card_errors,
    clear_accelerator,
    synchronise_batch_norm,
    to_device,
)
from forget_mi.training.prediction import predict
from forget_mi.training.recomputing import recomputed
from forget_mi.training.state import TrainingLog, TrainingState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def default_loss(model: ImageTextModel, batch: Batch, ranking: float) -> Tensor:
    """CE(image) + CE(text) + ranking * ranking loss of a batch; of the whole one where several
    processes have a share of it each, since neighbours in the ranking loss may be another's."""
    output = model(batch["images"], batch["input_ids"], batch["attention_mask"])
    return training_loss(*from_all_processes(output, batch["labels"], batch["studies"]), ranking)


def from_all_processes(
    output: ModelOutput, labels: Tensor, studies: Tensor
) -> tuple[ModelOutput, Tensor, Tensor]:
    """A batch's outputs, labels and studies, those of all processes in order: each process then has
    the loss of the whole batch. Its own share carries the gradient, times the number of processes,
    by which gradients are divided when they are averaged."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return output, labels, studies
    processes, own = distributed.get_world_size(), distributed.get_rank()

    def whole(share: Tensor) -> Tensor:
        each = [torch.empty_like(share) for _ in range(processes)]
        distributed.all_gather(each, share.detach().contiguous())
        if share.requires_grad:
            each[own] = share + (processes - 1) * (share - share.detach())
        return torch.cat(each)

    return ModelOutput(*map(whole, output)), whole(labels), whole(studies)


def train(
    model: ImageTextModel,
    examples: Examples,
    validation: Examples,
    settings: TrainingConfig,
    *,
    seed: int,
    accelerator: Accelerator,
    state_folder: Path | None = None,
    progress: bool | str = True,
) -> TrainingLog:
    """Train the model in place.

    examples, validation: what is learned from, and what the AUC of each epoch is measured on. seed:
    of the order of batches, dropout and translations; each epoch draws from (seed, epoch) alone, so
    that a run that was killed and resumed ends with the same weights. state_folder: the state after
    each epoch is kept there; where it already holds one of the same settings, training goes on from
    it. It is removed by the caller once the result is safe. progress: show a bar, by this name if
    it is one.

    Raises InputError where the state in state_folder belongs to other settings, FloatingPointError
    where the loss is not finite.
    """
    steps_an_epoch = math.ceil(len(examples) / settings.batch_size)
    optimizer = make_optimizer(model, settings.learning_rate, settings.weight_decay)
    scheduler = linear_schedule(optimizer, settings.epochs * steps_an_epoch, settings.warmup)
    to_device(model, accelerator)
    synchronise_batch_norm(model, accelerator)
    clear_accelerator(accelerator)
    wrapped, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    identity = {"settings": asdict(settings), "seed": seed, "examples": len(examples)}
    state = TrainingState(state_folder, identity, accelerator)
    log = state.restore()
    examples, validation = placed(examples, accelerator), placed(validation, accelerator)
    label = progress if isinstance(progress, str) else "training"

    epochs = range(len(log.epochs), settings.epochs)
    done = len(log.epochs)
    bar = tqdm(
        epochs, desc=label, unit="epoch", initial=done, total=settings.epochs, disable=not progress
    )
    for epoch in bar:
        started = time.perf_counter()
        epoch_seed = 1_000_003 * seed + epoch
        torch.manual_seed(epoch_seed)
        loader = make_loader(examples, settings.batch_size, seed=epoch_seed)
        with card_errors(accelerator), recomputed(model, accelerator):
            mean_loss = _train_epoch(wrapped, loader, optimizer, scheduler, settings, accelerator)
        log.seconds += time.perf_counter() - started
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"{label}: the loss is {mean_loss} in epoch {epoch + 1}; lower the rate"
            )
        row = {"epoch": epoch + 1, "train_loss": mean_loss}
        row |= _validation_measures(model, validation, accelerator)
        log.epochs.append(row)
        if row["validation_auc"] >= max(e["validation_auc"] for e in log.epochs):
            log.best_epoch = epoch + 1
        state.save(log)
        bar.set_postfix(loss=f"{mean_loss:.3f}", validation_auc=f"{row['validation_auc']:.3f}")
    return log


def _train_epoch(
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    settings: TrainingConfig,
    accelerator: Accelerator,
) -> float:
    """One pass over the loader; the mean loss of a batch over all processes."""
    model.train()
    parameters = list(model.parameters())
    ranking = accelerator.unwrap_model(model).settings.ranking
    total = torch.zeros((), device=accelerator.device)
    for batch in device_loader(loader, accelerator):
        batch["images"] = translate(batch["images"], settings.translation)
        parts = split_batch(batch, accelerator.parts)
        for part in accumulate_gradients(parts, model, accelerator):
            share = len(part["labels"]) / len(batch["labels"])
            loss = default_loss(model, part, ranking) * share
            accelerator.backward(loss)
            total += loss.detach()
        accelerator.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return accelerator.reduce(total, "mean").item() / len(loader)


def _validation_measures(
    model: ImageTextModel, validation: Examples, accelerator: Accelerator
) -> dict[str, float]:
    predictions = predict(model, validation, accelerator)
    return {
        "validation_loss": float(predictions.cross_entropy("fused").mean()),
        "validation_auc": mean_auc(predictions.labels, predictions.probabilities("fused")),
    }


def train_new(
    cohort: Cohort,
    rows: Sequence[int],
    model_settings: ModelConfig,
    settings: TrainingConfig,
    *,
    seed: int,
    accelerator: Accelerator,
    state_folder: Path | None = None,
    progress: bool | str = True,
) -> tuple[ImageTextModel, PreTrainedTokenizerBase | None, TrainingLog]:
    """A model that has seen nothing but the given rows of the cohort: tokenizer, weights and
    training alike.

    The vocabulary is learned from these rows' reports alone, so that a retrained model owes
    nothing, not even a word, to the patients it was retrained without.
    """
    if model_settings.towers != "text" and not cohort.has_images:
        raise InputError(
            f"parameter model.towers = {model_settings.towers!r}: cohort {cohort.name} holds "
            "reports only; set model.towers to 'text', or give the folder with its images "
            "(cohort.root)"
        )
    studies = cohort.table.study_id.iloc[list(rows)].unique()
    tokenizer = build_tokenizer(model_settings, [cohort.reports[study] for study in studies])
    model = build_model(model_settings, len(cohort.classes), vocabulary_size(tokenizer), seed)
    log = train(
        model,
        make_examples(cohort, rows, tokenizer, model.max_tokens),
        make_examples(cohort, rows_of(cohort, "validation"), tokenizer, model.max_tokens),
        settings,
        seed=seed,
        accelerator=accelerator,
        state_folder=state_folder,
        progress=progress,
    )
    return model, tokenizer, log


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, beta2: float = 0.999
) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient; biases and norms are not decayed.
    beta2: decay of the running mean of squared gradients, which averages over about 1 / (1 -
    beta2) steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, beta2), fused=True
    )


def linear_schedule(
    optimizer: torch.optim.Optimizer, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over a share of the steps, then linear decay to 0."""
    from transformers import get_linear_schedule_with_warmup

    return get_linear_schedule_with_warmup(optimizer, round(warmup * steps), steps)


def translate(images: Tensor, share: float) -> Tensor:
    """Shift each image (batch, 1, height, width) at random by up to `share` of its size; what comes
    in is black."""
    if share == 0:
        return images
    batch, _, height, width = images.shape
    reach = round(share * max(height, width))
    padded = nn.functional.pad(images, [reach] * 4)
    shifts = torch.randint(0, 2 * reach + 1, (2, batch)).to(images.device, non_blocking=True)
    rows = shifts[0][:, None] + torch.arange(height, device=images.device)
    columns = shifts[1][:, None] + torch.arange(width, device=images.device)
    which = torch.arange(batch, device=images.device)[:, None, None]
    return padded[which, 0, rows[:, :, None], columns[:, None, :]][:, None]


def eval_frozen_layers(model: nn.Module, all_batch_norm: bool) -> None:
    """Put into evaluation mode, in place, the layers of which nothing is trained, and batch
    normalisation (all of it, or only there), which then uses and keeps F_og's running statistics:
    the embeddings of a small batch, half of it forgotten records, then mean the same in the loop as
    afterwards."""
    for module in model.modules():
        has_parameters = next(module.parameters(), None) is not None
        is_frozen = has_parameters and not any(p.requires_grad for p in module.parameters())
        if is_frozen or (all_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm)):
            module.eval()
