"""The image store: each image decoded once, into a file that is read like an array."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from forget_mi.data import store
from forget_mi.data.cohort import DIGESTS, ImageRows
from forget_mi.data.store import open_store
from forget_mi.errors import InputError


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for i in range(70):
        path = tmp_path / f"{i:03d}.png"
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(path)
        paths.append(path)
    return paths


def levels(opened) -> list[int]:
    return opened.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_store_holds_every_image_in_order(pictures, tmp_path, workers):
    opened = open_store(
        pictures, 8, tmp_path / "store", source="x", workers=workers, progress=False
    )
    assert levels(opened) == list(range(70))
    assert isinstance(opened.images, np.memmap)
    assert opened.unreadable == {}


def test_a_second_opening_decodes_nothing(pictures, tmp_path, monkeypatch):
    first = open_store(pictures, 8, tmp_path / "store", source="x", workers=1, progress=False)
    monkeypatch.setattr(store, "read_image", None)
    again = open_store(pictures, 8, tmp_path / "store", source="x", workers=1, progress=False)
    assert (again.folder, levels(again)) == (first.folder, levels(first))


def test_a_pass_that_was_killed_goes_on(pictures, tmp_path, monkeypatch):
    real, seen = store.read_image, []

    def dying(path, size):
        if len(seen) == 40:
            raise KeyboardInterrupt
        seen.append(path)
        return real(path, size)

    monkeypatch.setattr(store, "read_image", dying)
    with pytest.raises(KeyboardInterrupt):
        open_store(pictures, 8, tmp_path / "store", source="x", workers=1, progress=False)
    again = []
    monkeypatch.setattr(
        store, "read_image", lambda path, size: again.append(path) or real(path, size)
    )
    opened = open_store(pictures, 8, tmp_path / "store", source="x", workers=1, progress=False)
    assert levels(opened) == list(range(70))
    assert len(again) == 70 - 32, "the first whole chunk is not read again"


def test_another_size_or_a_changed_file_is_another_store(pictures, tmp_path):
    def folder(size=8):
        return open_store(
            pictures, size, tmp_path / "store", source="x", workers=1, progress=False
        ).folder

    first = folder()
    assert folder(9) != first
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(pictures[0])
    assert folder() != first


def test_digests_are_of_the_pixels_and_an_older_store_without_them_is_made_again(
    pictures, tmp_path
):
    def opened():
        return open_store(pictures, 8, tmp_path / "store", source="x", workers=1, progress=False)

    first = opened()
    digests = np.load(first.folder / DIGESTS)
    assert digests.shape == (70, 32)
    for row in (0, 69):
        assert digests[row].tobytes() == hashlib.sha256(first.images[row].tobytes()).digest()
    (first.folder / DIGESTS).unlink()
    again = opened()
    assert again.folder == first.folder
    assert np.array_equal(np.load(again.folder / DIGESTS), digests)
    assert levels(again) == list(range(70))


def test_unreadable_images_are_remembered(pictures, tmp_path):
    pictures[5].write_bytes(b"")
    for _ in range(2):
        opened = open_store(pictures, 8, tmp_path / "store", source="x", workers=2, progress=False)
        assert opened.unreadable == {5: "the file is empty"}


def test_a_full_disk_stops_at_once_and_leaves_no_store(pictures, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        InputError, match=r"no room for the image store of 70 images of 8 px .*cohort\.store"
    ):
        open_store(pictures, 8, tmp_path / "store", source="x", workers=1, progress=False)
    assert not list((tmp_path / "store").rglob("*.npy"))
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_rows_of_images_are_those_of_the_array():
    images = np.arange(5 * 4, dtype=np.uint8).reshape(5, 1, 2, 2)
    rows = ImageRows(ImageRows(images, [4, 2, 0, 1]), [1, 3])
    assert rows.shape == (2, 1, 2, 2)
    assert len(rows) == 2
    assert np.array_equal(np.asarray(rows), images[[2, 1]])
    assert np.array_equal(rows[1, 0], images[1, 0])
    assert np.array_equal(rows[np.array([1, 0])], images[[1, 2]])
    assert torch.from_numpy(rows[0:1]).shape == (1, 1, 2, 2)


def test_memory_stays_flat(tmp_path):
    """Filling a store of ten times as many images, here 157 MB of pixels, takes no more memory."""
    program = (
        "import resource, sys; from pathlib import Path; from forget_mi.data.store import "
        "open_store\n"
        "paths = [Path(sys.argv[1])] * int(sys.argv[2])\n"
        "open_store(paths, 512, Path(sys.argv[3]), source='memory', workers=1, progress=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(path)

    def peak(images: int) -> int:
        command = [
            sys.executable,
            "-c",
            program,
            str(path),
            str(images),
            str(tmp_path / f"store{images}"),
        ]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(600) - peak(60) < 60
