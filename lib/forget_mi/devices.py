"""Device and precision, decided here and nowhere else."""

from __future__ import annotations

from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs

from forget_mi.errors import InputError
from forget_mi.params import config


@config
class DeviceConfig:
    """device: auto takes CUDA where there is one. precision: auto is bf16 autocast on CUDA (where the card has it)
    and fp32 on CPU. deterministic: ask PyTorch for deterministic kernels (CUDA only loses speed by it)."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deterministic: bool = True


def make_accelerator(settings: DeviceConfig | None = None) -> Accelerator:
    """The Accelerator that carries device, precision and processes through training and unlearning.

    Raises InputError where CUDA is asked for and there is none.
    """
    settings = settings or DeviceConfig()
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise InputError("parameter device.device = 'cuda': no CUDA device is visible; allowed here are auto and cpu")
    on_cuda = cuda and settings.device != "cpu"
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if on_cuda and torch.cuda.is_bf16_supported() else "fp32"
    if settings.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    # Accelerate keeps its state for the whole process; a notebook may ask for another device the next time.
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    PartialState._reset_state()
    return Accelerator(
        cpu=not on_cuda,
        mixed_precision="bf16" if precision == "bf16" else "no",
        # Several processes cut each batch up, and the schedule counts steps as one process would.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # Losses between embeddings do not reach the output layers.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


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
