"""(d): the image store against a bare loop, `make benchmark-store`; a smaller run of it is part of
`make bench`.

Writes DICOM files of synthetic radiographs, decodes them with a loop of pydicom and a resize on one
core, then into the store on all cores, then reads the store twice; prints rates, their ratio, and
the peak resident memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from measure import Row, spread
from PIL import Image

from forget_mi.data.cohorts import synthetic
from forget_mi.data.export import write_dicom
from forget_mi.data.store import open_store


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Print the table; return the store's rate over bare x cores, and that of a second pass over
    bare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pixels", type=int, default=1024, help="of the DICOM files")
    parser.add_argument("--size", type=int, default=512, help="of the store")
    parser.add_argument(
        "--folder", type=Path, help="where the files go (default: a temporary folder)"
    )
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = write(Path(folder), options.images, options.pixels)
        for path in paths:  # so that both loops find the files in the page cache
            path.read_bytes()
        some = paths[: max(1, len(paths) // 5)]
        bare = len(some) / seconds(lambda: [bare_loop(path, options.size) for path in some])
        # In a process of its own, whose peak memory is that of the store and of nothing else.
        started = time.perf_counter()
        memory = subprocess.run(
            [sys.executable, __file__, "--store", folder, str(options.size)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        store = len(paths) / (time.perf_counter() - started)
        opened = open_store(
            paths, options.size, Path(folder) / "store", source="benchmark", progress=False
        )
        again = [len(paths) / seconds(lambda: checksum(opened.images)) for _ in range(2)]
    print(
        f"{options.images} DICOM files of {options.pixels} px to {options.size} px, {cores} cores"
    )
    print(f"bare pydicom and resize, one core   {bare:10.1f} images/s")
    print(
        f"store, all cores, start included    {store:10.1f} images/s, {store / (bare * cores):.2f} "
        "of bare x cores"
    )
    print(f"store, second and third pass        {again[0]:10.1f} and {again[1]:.1f} images/s")
    print(f"peak resident memory                {memory}")
    return store / (bare * cores), again[0] / bare


def rows() -> list[Row]:
    """Three runs of 400 files; median and quartiles."""
    first, second = zip(*(main(["--images", "400"]) for _ in range(3)), strict=True)
    return [
        Row("d", "images/s into the store over a bare loop x cores", *spread(first)),
        Row("d", "images/s from the store over a bare loop", *spread(second)),
    ]


def write(folder: Path, images: int, pixels: int) -> list[Path]:
    """The files: a few synthetic radiographs, each with noise of its own."""
    cohort = synthetic.load(
        synthetic.SyntheticConfig(patients=8, image_size=pixels, images_per_patient=1)
    )
    rng = np.random.default_rng(0)
    paths = []
    for number in range(images):
        picture = cohort.images[number % len(cohort), 0] // 2 + rng.integers(
            0, 100, (pixels, pixels), dtype=np.uint8
        )
        paths.append(folder / f"{number:06d}.dcm")
        write_dicom(paths[-1], picture, "1", "1", inverted=number % 5 == 4)
    return paths


def bare_loop(path: Path, size: int) -> np.ndarray:
    """What a script would do: no window, no inversion, no check."""
    return np.asarray(Image.fromarray(pydicom.dcmread(path).pixel_array).resize((size, size)))


def checksum(images: np.ndarray) -> int:
    """A sum over all pixels, read in batches."""
    return sum(
        int(images[start : start + 64].sum(dtype=np.int64)) for start in range(0, len(images), 64)
    )


def seconds(work) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fill_store(folder: Path, size: int) -> None:
    """Decode everything into the store; print the peak memory of this process and of its workers,
    in MB."""
    open_store(
        sorted(folder.glob("*.dcm")), size, folder / "store", source="benchmark", progress=False
    )
    peaks = [
        resource.getrusage(who).ru_maxrss // 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(f"{peaks[0]} MB in the parent, {peaks[1]} MB in the largest worker")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--store"]:
        fill_store(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
