"""Device and precision, decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    TorchDynamoPlugin,
)
from torch import nn

from forget_mi.errors import InputError
from forget_mi.training.config import DeviceConfig


def uses_cuda(settings: DeviceConfig) -> bool:
    """Whether models run on a CUDA device."""
    return settings.device != "cpu" and torch.cuda.is_available()


def make_accelerator(settings: DeviceConfig | None = None, **changes: Any) -> Accelerator:
    """The Accelerator that carries device, precision and processes through training and unlearning.

    changes: to the settings, such as threads=None where nothing is timed.

    Raises InputError where CUDA is asked for and there is none.
    """
    settings = replace(settings or DeviceConfig(), **changes)
    on_cuda = uses_cuda(settings)
    if settings.device == "cuda" and not on_cuda:
        raise InputError(
            f"parameter device.device = 'cuda': {why_no_cuda()}; allowed here are auto and cpu"
        )
    if settings.compile == "cudagraphs" and not on_cuda:
        raise InputError(
            "parameter device.compile = 'cudagraphs': there are no kernels to record on a CPU; "
            "allowed here are no, inductor and aot_eager"
        )
    if settings.recompute and settings.compile != "no":
        raise InputError(
            f"parameter device.recompute = true: not together with device.compile = "
            f"{settings.compile!r}, whose graphs decide by themselves what is computed again"
        )
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if on_cuda and torch.cuda.is_bf16_supported() else "fp32"
    elif precision == "bf16" and on_cuda and not torch.cuda.is_bf16_supported():
        raise InputError(
            f"parameter device.precision = 'bf16': {torch.cuda.get_device_name()} has no bf16; "
            "allowed here are auto and fp32"
        )
    if settings.deterministic:
        # What torch.use_deterministic_algorithms(True, warn_only=True) does, without importing the
        # compiler (over a second, in each process).
        torch.set_deterministic_debug_mode("warn")
        torch.backends.cudnn.benchmark = False
        # It also fills each new tensor before it is written to: help for those who hunt uses of
        # unset memory, and a twentieth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False
    # Accelerate keeps its state for the whole process; a notebook may ask for another device the
    # next time.
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
        # Reports have many lengths: compiled for each again, a run would do little else. A graph of
        # kernels is of one length; on a card there are few.
        dynamo_plugin=TorchDynamoPlugin(
            backend=settings.compile, dynamic=settings.compile != "cudagraphs"
        ),
    )
    accelerator.parts = settings.parts
    accelerator.recompute = settings.recompute
    accelerator.channels_last = settings.channels_last
    accelerator.cohort_on = settings.cohort_on
    accelerator.read_ahead = settings.read_ahead == "on" or (
        settings.read_ahead == "auto" and on_cuda
    )
    return accelerator


def why_no_cuda() -> str:
    """Why no CUDA device can be used, in words: this torch, the driver, or there is none."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
    except RuntimeError as error:  # a driver that is missing, or too old, says so
        return f"no CUDA device can be used ({str(error).strip().splitlines()[0]})"
    return "no CUDA device is visible"


@contextmanager
def card_errors(accelerator: Accelerator) -> Iterator[None]:
    """What goes wrong on a card during steps, in one line: too little memory, with the parameter
    that helps and who else holds some, or a card that fails. Raises InputError in their place."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        parts = getattr(accelerator, "parts", 1)
        raise InputError(
            f"parameter device.parts = {parts}: a step does not fit into the card's memory"
            f"{_held_by_others(accelerator.device)}; {2 * parts} parts take about half as much"
            f"{_and_recompute(accelerator)} ({str(error).strip().splitlines()[0]})"
        ) from None
    except RuntimeError as error:
        first = str(error).strip().splitlines()[:1]
        if not first or "CUDA error" not in first[0]:
            raise
        raise InputError(
            f"the card failed ({first[0]}); a training goes on from its last epoch when it is "
            "started again"
        ) from None


def _and_recompute(accelerator: Accelerator) -> str:
    if getattr(accelerator, "recompute", False):
        return ""
    return ", and so may device.recompute = true, for more time"


def _held_by_others(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    if others < 2**30:  # a driver's own
        return f" of {total / 2**30:.1f} GiB"
    return f" of {total / 2**30:.1f} GiB, of which other processes hold {others / 2**30:.1f}"


def to_device(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model itself, moved to the accelerator's device and into its memory format.

    Raises InputError where channels_last is 'on' for a model that it would crash.
    """
    if uses_channels_last(model, accelerator):
        return model.to(accelerator.device, memory_format=torch.channels_last)
    return model.to(accelerator.device)


# Of a strided 1x1 convolution with fewer input channels, oneDNN writes the gradient past the end of
# its memory when the channels are innermost (uxlfoundation/oneDNN issue 6035): the process dies, or
# worse.
MIN_CHANNELS = 16


def uses_channels_last(model: nn.Module, accelerator: Accelerator) -> bool:
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
        and module.in_channels < MIN_CHANNELS
    ]
    if choice == "on" and crashing:
        raise InputError(
            f"parameter device.channels_last = 'on': {crashing[0]} is a strided 1x1 convolution "
            f"with fewer than {MIN_CHANNELS} input channels, whose gradient crashes on a CPU; "
            "allowed here are auto and off"
        )
    return choice == "on" or (
        not crashing and any(getattr(m, "faster_channels_last", False) for m in model.modules())
    )


def synchronise_batch_norm(model: nn.Module, accelerator: Accelerator) -> None:
    """Let batch normalisation, in place, take the statistics of the whole batch where several cards
    have a share of it each; PyTorch has no such thing for CPUs, where a share's own are taken."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def clear_accelerator(accelerator: Accelerator) -> None:
    """Let go of models and optimisers that an earlier training registered: they would be saved
    with, and loaded in place of, the next one's state.

    What `accelerator.free_memory()` does; but on CPU, where reference counts free a model at once,
    without its collection of garbage, which takes as long as several steps and so a tenth of the
    time of a small request.
    """
    if accelerator.device.type == "cpu":
        accelerator._models, accelerator._optimizers, accelerator._schedulers = [], [], []
    else:
        accelerator.free_memory()


def accumulate_gradients(
    parts: Sequence[Any], model: nn.Module, accelerator: Accelerator
) -> Iterator[Any]:
    """A step's parts, each to be taken forward and backward; processes exchange gradients at the
    last one only."""
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
