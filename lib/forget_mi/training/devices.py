"""Device and precision, decided here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, TorchDynamoPlugin
from pydantic import Field
from torch import nn

from forget_mi.config import config
from forget_mi.errors import InputError


@config
class DeviceConfig:
    """device: auto takes CUDA where there is one. precision: auto is bf16 autocast on CUDA (where the card has it)
    and fp32 on CPU. channels_last: keep weights and activations of convolutions with the channels innermost; auto is on
    with CUDA, whose bf16 convolutions ask for it, and on CPU for the built-in image tower (other networks may be
    slower by it). compile: torch.compile with
    this backend for training and unlearning steps (on CPU inductor needs a C++ compiler; the first steps are slow).
    parts: into how many a step's batch is cut, one after another through the model, their gradients added up: what does
    not fit into memory whole then does. What depends on a whole batch (batch normalisation, the ranking loss) sees a
    part. deterministic: ask PyTorch for deterministic kernels (CUDA only loses speed by it). threads: CPU
    threads of one model in training and unlearning, None for as many as there are; with fewer than there are cores,
    models that don't depend on each other are trained side by side: small ones gain more by that than by threads."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: Literal["auto", "on", "off"] = "auto"
    compile: Literal["no", "inductor", "aot_eager"] = "no"
    parts: Annotated[int, Field(ge=1, le=1024)] = 1
    deterministic: bool = True
    threads: Annotated[int, Field(ge=1)] | None = None

    @property
    def on_cuda(self) -> bool:
        """Whether models run on a CUDA device."""
        return self.device != "cpu" and torch.cuda.is_available()

    def at_once(self) -> int:
        """How many models are worth being trained side by side: one, unless the params leave cores to others.
        (LOKY_MAX_CPU_COUNT in the environment says how many cores are ours.)"""
        from joblib import cpu_count

        together = int(os.environ.get("WORLD_SIZE", "1")) > 1  # started by accelerate as one of several processes
        return 1 if self.on_cuda or together or self.threads is None else max(1, cpu_count() // self.threads)


def make_accelerator(settings: DeviceConfig | None = None) -> Accelerator:
    """The Accelerator that carries device, precision and processes through training and unlearning.

    Raises InputError where CUDA is asked for and there is none.
    """
    settings = settings or DeviceConfig()
    on_cuda = settings.on_cuda
    if settings.device == "cuda" and not on_cuda:
        raise InputError("parameter device.device = 'cuda': no CUDA device is visible; allowed here are auto and cpu")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if on_cuda and torch.cuda.is_bf16_supported() else "fp32"
    if settings.deterministic:
        # What torch.use_deterministic_algorithms(True, warn_only=True) does, without importing the compiler (over a
        # second, in each process).
        torch.set_deterministic_debug_mode("warn")
        torch.backends.cudnn.benchmark = False
        # It also fills each new tensor before it is written to: help for those who hunt uses of unset memory, and a
        # twentieth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False
    # Accelerate keeps its state for the whole process; a notebook may ask for another device the next time.
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()
    accelerator = Accelerator(
        cpu=not on_cuda,
        mixed_precision="bf16" if precision == "bf16" else "no",
        # Several processes cut each batch up, and the schedule counts steps as one process would.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # Losses between embeddings do not reach the output layers.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        # Reports have many lengths: compiled for each anew, a run would do little else.
        dynamo_plugin=TorchDynamoPlugin(backend=settings.compile, dynamic=True),
    )
    accelerator.parts = settings.parts
    accelerator.channels_last = settings.channels_last
    return accelerator


def placed(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model itself, moved to the accelerator's device and into its memory format.

    Raises InputError where channels_last is 'on' for a model that it would crash.
    """
    if has_channels_last(model, accelerator):
        return model.to(accelerator.device, memory_format=torch.channels_last)
    return model.to(accelerator.device)


# Of a strided 1x1 convolution with fewer input channels, oneDNN writes the gradient past the end of its memory when the
# channels are innermost (uxlfoundation/oneDNN issue 6035): the process dies, or worse.
FEWEST_CHANNELS = 16


def has_channels_last(model: nn.Module, accelerator: Accelerator) -> bool:
    """Whether the model is to have its channels innermost."""
    choice = getattr(accelerator, "channels_last", "off")
    if accelerator.device.type != "cpu" or choice == "off":
        return choice != "off"
    crashing = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < FEWEST_CHANNELS
    ]
    if choice == "on" and crashing:
        raise InputError(
            f"parameter device.channels_last = 'on': {crashing[0]} is a strided 1x1 convolution with fewer than "
            f"{FEWEST_CHANNELS} input channels, whose gradient crashes on a CPU; allowed here are auto and off"
        )
    return choice == "on" or (not crashing and any(getattr(m, "faster_channels_last", False) for m in model.modules()))


def release(accelerator: Accelerator) -> None:
    """Let go of models and optimisers that an earlier training registered: they would be saved with, and loaded in
    place of, the next one's state.

    What `accelerator.free_memory()` does; but on CPU, where reference counts free a model at once, without its
    collection of garbage, which takes as long as several steps and so a tenth of the time of a small request.
    """
    if accelerator.device.type == "cpu":
        accelerator._models, accelerator._optimizers, accelerator._schedulers = [], [], []
    else:
        accelerator.free_memory()


def in_turn(parts: Sequence[Any], model: nn.Module, accelerator: Accelerator) -> Iterator[Any]:
    """A step's parts, each to be taken forward and backward; processes exchange gradients at the last one only."""
    for number, part in enumerate(parts, start=1):
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            yield part


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the card's allocator on CUDA, of the process (resident) on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe_device(device: torch.device) -> str:
    """The device in words, for manifests: a card's name, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    import platform

    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
