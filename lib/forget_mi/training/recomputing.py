"""Less memory for more time: of each block of a model only the input is kept for the backward pass,
and what lies inside is computed again there (activation checkpointing; Chen et al. 2016, arXiv
1604.06174)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from forget_mi.errors import InputError
from forget_mi.models import ImageTextModel


def blocks_of(model: ImageTextModel) -> list[nn.Module]:
    """The blocks of both towers. Raises InputError where a tower's can't be told apart."""
    towers = model.towers()
    for tower in towers:
        if not tower.blocks():
            raise InputError(
                "parameter device.recompute = true: the blocks of "
                f"{type(tower).__name__} can't be told apart; allowed for this model is false"
            )
    return [block for tower in towers for block in tower.blocks()]


@contextmanager
def recomputed(model: ImageTextModel, accelerator: Accelerator) -> Iterator[None]:
    """Where `device.recompute` is on, what the model's blocks keep inside for the backward pass is
    computed again; losses, gradients, and weights are the same. The model is as it was afterwards.

    Raises InputError for a model whose blocks can't be told apart.
    """
    blocks = blocks_of(model) if getattr(accelerator, "recompute", False) else []
    for block in blocks:
        block.forward = partial(_recomputed_forward, block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed_forward(block: nn.Module, forward: Callable, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _kept_statistics(block)),
        **kwargs,
    )


@contextmanager
def _kept_statistics(block: nn.Module) -> Iterator[None]:
    """The second forward pass of a block must not count the batch a second time in the running
    statistics of batch normalisation."""
    layers = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.sub_(1)
