"""The settings of training: the loop, devices, reference models and shadow models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forget_mi.config import config
from forget_mi.errors import InputError


@config
class TrainingConfig:
    """epochs: passes over the training set. batch_size. learning_rate: AdamW's peak, after a linear
    warm-up over `warmup` of the steps, then linear decay to 0. weight_decay. clip: largest gradient
    norm. translation: images are shifted at random by up to this share of their size."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0
    translation: Annotated[float, Field(ge=0, le=0.5)] = 0.0


@config
class DeviceConfig:
    """device: auto takes CUDA where there is one. precision: auto is bf16 autocast on CUDA
    (where the card has it) and fp32 on CPU. channels_last: keep weights and activations of
    convolutions with the channels innermost; auto is on with CUDA, whose bf16 convolutions ask
    for it, and on CPU for the built-in image tower (other networks may be slower by it).
    compile: torch.compile with this backend for training and unlearning steps (on CPU inductor
    needs a C++ compiler; the first steps are slow; cudagraphs records a step's kernels and plays
    them again, on a card only). parts: into how many a step's batch is cut, one after another
    through the model, their gradients added up: what does not fit into memory whole then does.
    What depends on a whole batch (batch normalisation, the ranking loss) sees a part.
    recompute: keep of each block of the towers its input alone for the backward pass, and compute
    the rest again there: the same numbers in less memory and a third more time (`recomputing`).
    read_ahead: whether a thread reads the next batches, and copies them to the card, while a
    step runs; auto is on with CUDA. cohort_on: 'device' keeps records on the card and gathers
    batches there, 'host' never does, and auto does where they fit (`data.loaders.placed`).
    deterministic: ask PyTorch for deterministic kernels (CUDA only loses speed by it). models:
    how many that don't depend on each other share a card, each in a process of its own; None for
    one a core, at most eight, and one for each 8 GiB of the card. threads: CPU threads of one
    model in training and unlearning, None for as many as there are; with fewer than there are
    cores, models that don't depend on each other are trained side by side: small ones gain more
    by that than by threads."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: Literal["auto", "on", "off"] = "auto"
    compile: Literal["no", "inductor", "aot_eager", "cudagraphs"] = "no"
    parts: Annotated[int, Field(ge=1, le=1024)] = 1
    recompute: bool = False
    read_ahead: Literal["auto", "on", "off"] = "auto"
    cohort_on: Literal["auto", "host", "device"] = "auto"
    models: Annotated[int, Field(ge=1, le=64)] | None = None
    deterministic: bool = True
    threads: Annotated[int, Field(ge=1)] | None = None


@config
class ReferenceConfig:
    """folds: into how many the training patients are cut; one reference model is trained without
    each, so that two cost about one training in all, and more cost folds - 1. 0 for none: methods
    that learn from them are then refused. seed: of the cut."""

    folds: Annotated[int, Field(ge=0, le=20)] = 2
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self):
        if self.folds == 1:
            raise InputError("parameter references.folds = 1: 0 (none), or at least 2")

    def names(self) -> list[str]:
        """reference-1, reference-2, ..."""
        return [f"reference-{k + 1}" for k in range(self.folds)]


@config
class ShadowConfig:
    """count: of shadow models, even, so that each patient is in exactly half of them; 0 for none
    (the attacks that need them are then left out). seed: of the halves. missing: what an audit does
    where models are missing: 'train' trains them then and there; 'leave_out' does without the
    attacks that need them, and says so (make shadows trains them)."""

    count: Annotated[int, Field(ge=0, le=512)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    missing: Literal["train", "leave_out"] = "leave_out"

    def __post_init__(self):
        if self.count % 2 or self.count == 2:
            raise InputError(
                f"parameter shadows.count = {self.count}: an even number of at least 4 is allowed "
                "(each patient is in half of the models, and a spread needs two on either side), "
                "or 0 for none"
            )
