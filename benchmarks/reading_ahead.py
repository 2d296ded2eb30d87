"""(i): the share of its time that a loop waits for data, with images on disk and a step that takes
50 ms elsewhere, as on a card.

The images lie in the store's form, memory-mapped, larger together than a batch by far; the step is
a pause. Copies to a card are not in it: they run beside a step on a stream of their own.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from measure import Row, spread

from forget_mi.data import loaders
from forget_mi.data.batches import Examples
from forget_mi.data.cohort import ImageRows
from forget_mi.data.loaders import to_device_ahead
from forget_mi.training.config import DeviceConfig
from forget_mi.training.devices import make_accelerator
from forget_mi.unlearning.base import UnlearningData
from forget_mi.unlearning.loop import joined_batch
from forget_mi.unlearning.samplers import StepIndices

STEP, STEPS, RECORDS = 0.05, 40, 16


def rows() -> list[Row]:
    """Five runs a size, ahead and not; median and quartiles."""
    found = []
    for pixels in (512, 2048):
        with tempfile.TemporaryDirectory() as folder:
            data = on_disk(Path(folder) / "images.npy", pixels)
            for name in ("on", "off"):
                shares = [share_waited(data, name) for _ in range(5)]
                case = f"waiting for data, {pixels} px, 16 + 16 records, read_ahead {name}"
                found.append(Row("i", case, *spread(shares)))
    return found


def on_disk(path: Path, pixels: int) -> UnlearningData:
    """Random records, the images in a file."""
    count = 8 * RECORDS
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 1, pixels, pixels))
    rng = np.random.default_rng(0)
    for row in range(count):
        images[row] = rng.integers(0, 256, images.shape[1:], dtype=np.uint8)
    images.flush()
    images = np.load(path, mmap_mode="r")

    def some(rows: range) -> Examples:
        n = len(rows)
        made = Examples.from_tensors(torch.zeros(n, 1, 1, 1), torch.zeros(n, dtype=torch.long))
        return Examples(ImageRows(images, rows), *list(made.__dict__.values())[1:7])

    forget, retain = some(range(count // 2)), some(range(count // 2, count))
    return UnlearningData(forget, retain, retain)


def share_waited(data: UnlearningData, read_ahead: str) -> float:
    """Of the time of STEPS steps, what is not in them. Images become floats on the device, so not
    here."""
    accelerator = make_accelerator(DeviceConfig(device="cpu", read_ahead=read_ahead))
    rng = np.random.default_rng(0)
    steps = [
        StepIndices(*(rng.permutation(len(data.forget))[:RECORDS] for _ in range(2)))
        for _ in range(STEPS + 1)
    ]
    batches = to_device_ahead((joined_batch(data, step) for step in steps), accelerator)
    with patch.object(loaders, "to_float", lambda images: images):
        next(batches)
        started = time.perf_counter()
        for _ in range(STEPS):
            next(batches)
            time.sleep(STEP)
        return 1 - STEPS * STEP / (time.perf_counter() - started)


if __name__ == "__main__":
    for row in rows():
        print(row)
