"""How much memory a step needs on a card, estimated without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch.nn import functional as F

from forget_mi.data.loaders import AHEAD
from forget_mi.losses import training_loss
from forget_mi.models import ImageTextModel, ModelConfig, build_model
from forget_mi.training.recomputing import blocks_of, recomputed

# Weights, gradients and AdamW's two moments: 4 bytes each, under autocast too.
TRAINED = 16
# Unlearning holds a frozen copy of the weights beside them.
FROZEN = 4
# Of a card: the driver, kernels and the allocator's rounding take the rest.
USABLE = 0.9


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step. parameters: how many there are. record: what each record takes: what the
    forward pass keeps of it for the backward pass, and its image. once: what it keeps whatever
    the records, such as weights cast to bf16."""

    parameters: int
    record: int
    once: int = 0

    def training(self, records: int) -> int:
        """A training step of so many records."""
        return TRAINED * self.parameters + self.once + records * self.record

    def unlearning(self, records: int) -> int:
        """An unlearning step of so many records, of D_f and D_r together."""
        return FROZEN * self.parameters + self.training(records)

    def most_records(self, memory: float, unlearning: bool = False) -> int:
        """How many records a step may have at once in so many bytes; 0 where not even the weights
        fit."""
        room = memory - (self.unlearning(0) if unlearning else self.training(0))
        return max(0, int(room // self.record))

    def parts(self, records: int, memory: float, unlearning: bool = False) -> int | None:
        """`device.parts`: into how many a step must be cut to fit; None where no part does."""
        most = self.most_records(memory, unlearning)
        return None if most == 0 else -(-records // most)


def estimate_step(
    settings: ModelConfig,
    image_size: int,
    *,
    classes: int = 4,
    bf16: bool = True,
    recompute: bool = False,
) -> StepMemory:
    """The memory of a model's step, from a forward pass of one record and of two on the CPU:
    nothing is counted but what the backward pass needs. Reports are taken as long as they may be,
    and a pretrained text tower that is not on this machine as large as `settings` says. recompute:
    as `device.recompute`; what the largest block keeps inside, and two gradients of its size, are
    then there once."""
    name = settings.text_pretrained
    if name is not None and not (name.startswith("package:") or Path(name).is_dir()):
        settings = replace(settings, text_pretrained=None)
    settings = replace(settings, image_weights=None)
    vocabulary = settings.text_vocabulary if settings.text_pretrained is None else 1
    model = build_model(settings, classes, vocabulary, seed=0).train()
    one, two = (
        kept_for_backward(model, image_size, records, bf16, recompute) for records in (1, 2)
    )
    parameters = sum(p.numel() for p in model.parameters())
    # Each pixel as float and as it lies, and those of the batches that are read ahead.
    image = image_size**2 * (4 + 1 + AHEAD)
    return StepMemory(parameters, two - one + image, 2 * one - two)


def kept_for_backward(
    model: ImageTextModel, image_size: int, records: int, bf16: bool, recompute: bool = False
) -> int:
    """Bytes of the tensors that a training step of so many records keeps for its backward pass,
    each storage once and the weights not at all."""
    tokens = torch.zeros(records, model.max_tokens, dtype=torch.long)
    labels = torch.zeros(records, dtype=torch.long)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # alive, so that no address is given out twice
        return tensor

    def kept_bytes() -> int:
        return sum(storage.nbytes() for storage in kept.values())

    def forward() -> None:
        images = torch.zeros(records, 1, image_size, image_size)
        output = model(images, tokens, torch.ones_like(tokens))
        training_loss(output, labels, labels)

    # A card's fused attention keeps no probabilities; a CPU's does where some are dropped.
    fused = partial(_attention, F.scaled_dot_product_attention)
    with (
        patch.object(F, "scaled_dot_product_attention", fused),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16),
    ):
        if not recompute:
            forward()
            return kept_bytes()
        with _bytes_inside_blocks(model, kept_bytes) as inside:
            forward()
        kept.clear()
        with recomputed(model, SimpleNamespace(recompute=True)):
            forward()
        return kept_bytes() + max(inside)


@contextmanager
def _bytes_inside_blocks(
    model: ImageTextModel, kept_bytes: Callable[[], int]
) -> Iterator[list[int]]:
    """What each block needs while its backward pass runs: by how much its forward pass made
    `kept_bytes` grow, and the gradients on the way in and out."""
    inside, before, handles = [], [], []

    def enter(*_) -> None:
        before.append(kept_bytes())

    def leave(block, inputs, output) -> None:
        output = output if isinstance(output, torch.Tensor) else output[0]
        gradient = max(tensor.nbytes for tensor in (inputs[0], output))
        inside.append(kept_bytes() - before.pop() + 2 * gradient)

    for block in blocks_of(model):
        handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


def _attention(attention, *args, **kwargs) -> torch.Tensor:
    return attention(*args, **{**kwargs, "dropout_p": 0.0})
