"""Batches on their way to a device: in which order they are drawn, and who reads them when."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.nn.functional import pad
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from forget_mi.data.batches import Batch, Examples, stored_batch, to_float
from forget_mi.errors import InputError


class _StoredBatches(Dataset):
    """Whole batches of some examples, images as they lie."""

    def __init__(self, examples: Examples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, index: list[int]) -> Batch:
        return stored_batch([(self.examples, index)])


def make_loader(
    examples: Examples, batch_size: int, *, seed: int | None = None, drop_last: bool = False
) -> DataLoader:
    """Batches in table order, or shuffled where a seed is given (the same seed, the same order);
    images as they lie, on the host."""
    if seed is None:
        sampler = SequentialSampler(examples)
    else:
        sampler = RandomSampler(examples, generator=torch.Generator().manual_seed(seed))
    return DataLoader(
        _StoredBatches(examples),
        batch_sampler=BatchSampler(sampler, batch_size, drop_last),
        # __getitems__ makes the whole batch at once, so there is nothing left to collate.
        collate_fn=_whole_batch,
    )


def device_loader(loader: DataLoader, accelerator: Accelerator) -> Iterator[Batch]:
    """One pass over the batches, on the accelerator's device, images as float; where there are
    several processes, each gets its share of each batch, so that the same number of steps is taken
    on the same records.

    Not `accelerator.prepare`, which would keep every epoch's loader, and write it into every saved
    state.
    """
    shares = prepare_data_loader(
        loader,
        device=accelerator.device,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        split_batches=True,
        put_on_device=False,
    )
    return to_device_ahead(shares, accelerator)


# Batches that are read before they are asked for: one being read, one on its way.
AHEAD = 2


def to_device_ahead(batches: Iterable[Batch], accelerator: Accelerator) -> Iterator[Batch]:
    """The same batches in the same order on the accelerator's device, images as float.

    Where `device.read_ahead` is on, a thread reads the next ones and, on a card, copies them on a
    stream of its own while the step runs. What comes out is the same either way. An error in
    reading is raised where its batch was asked for.
    """
    if not getattr(accelerator, "read_ahead", False):
        for batch in batches:
            yield _as_floats(copy_to_device(batch, accelerator.device))
        return
    on_card = accelerator.device.type == "cuda"
    stream = torch.cuda.Stream(accelerator.device) if on_card else None
    remaining = iter(batches)

    def fetch() -> tuple[Batch | None, Any]:
        batch = next(remaining, None)
        if batch is None or stream is None:
            return batch, None
        with torch.cuda.stream(stream):
            return copy_to_device(batch, accelerator.device), stream.record_event()

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        waiting = deque(thread.submit(fetch) for _ in range(AHEAD))
        while (found := waiting.popleft().result())[0] is not None:
            waiting.append(thread.submit(fetch))
            batch, copied = found
            if copied is not None:
                step = torch.cuda.current_stream(accelerator.device)
                step.wait_event(copied)
                for tensor in batch.values():
                    tensor.record_stream(step)  # its memory is not given away before the step ends
            yield _as_floats(batch)


def copy_to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, images as they lie. To a card from pinned memory, without waiting; there
    reports get one of few lengths, so that what was compiled or captured for one is used again."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in batch.items()}
    batch = batch | {name: to_few_lengths(batch[name]) for name in ("input_ids", "attention_mask")}
    there = {name: t if t.is_cuda or t.is_pinned() else t.pin_memory() for name, t in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in there.items()}


LENGTHS = 32


def to_few_lengths(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens or mask (n, longest) padded to the next multiple of LENGTHS."""
    return pad(tokens, (0, -tokens.shape[1] % LENGTHS))


def _as_floats(batch: Batch) -> Batch:
    return batch | {"images": to_float(batch["images"])}


# Of a card's memory: so much may be taken by records that stay there. The rest is the model's.
SHARE = 0.4

# Images copied at a time.
CHUNK = 64


def placed(examples: Examples, accelerator: Accelerator) -> Examples:
    """The examples with images and tokens on the accelerator's device, where `device.cohort_on`
    says so: 'auto' on a card, where they take at most SHARE of its memory together with what is
    there already. Batches are then gathered on the device. Otherwise the examples themselves.

    Raises InputError where cohort_on is 'device' and they don't fit.
    """
    choice, device = getattr(accelerator, "cohort_on", "host"), accelerator.device
    if choice == "host" or (choice == "auto" and device.type != "cuda"):
        return examples
    needed = size_in_bytes(examples)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        room = SHARE * total - torch.cuda.memory_allocated(device)
        if needed > room:
            if choice == "auto":
                return examples
            raise InputError(
                f"parameter device.cohort_on = 'device': {needed / 2**30:.1f} GiB of records do "
                f"not fit into {SHARE:.0%} of the card's {total / 2**30:.1f} GiB; allowed are auto "
                "and host"
            )
    if isinstance(examples.images, torch.Tensor) and examples.images.device == device:
        return examples
    images = None
    for at in range(0, len(examples), CHUNK):
        chunk = torch.as_tensor(examples.images[at : at + CHUNK])
        if images is None:
            images = torch.empty(
                (len(examples), *chunk.shape[1:]), dtype=chunk.dtype, device=device
            )
        images[at : at + len(chunk)] = chunk.to(device)
    tokens = {name: getattr(examples, name).to(device) for name in ("input_ids", "attention_mask")}
    return replace(examples, images=images, **tokens)


def size_in_bytes(examples: Examples) -> int:
    """Of images and tokens as they lie."""
    images = math.prod(examples.images.shape) * examples.images.dtype.itemsize
    return images + examples.input_ids.nbytes + examples.attention_mask.nbytes


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch in parts of about the same size; at most one a record."""
    if parts == 1:
        return [batch]
    parts = min(parts, len(batch["labels"]))
    pieces = {name: tensor.tensor_split(parts) for name, tensor in batch.items()}
    return [{name: tensors[i] for name, tensors in pieces.items()} for i in range(parts)]


def _whole_batch(batch: Batch) -> Batch:
    return batch
