"""Reading one image file, whatever it is, as a grey square of bytes.

Every function raises UnreadableImageError, with the reason, for a file that can't be used: the
caller skips and lists it.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from forget_mi.errors import import_extra

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class UnreadableImageError(ValueError):
    """An image file that can't be used; the message is the reason."""


def inside(root: Path, *parts: str) -> Path:
    """The path of a file below root. Raises UnreadableImageError where the parts lead elsewhere,
    also through a link: nothing outside the data root is ever opened."""
    relative = PurePosixPath(*parts)
    if relative.is_absolute() or ".." in relative.parts or re.search(r"[\\\x00]", str(relative)):
        raise UnreadableImageError("its path leads out of the data folder")
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnreadableImageError("its path is a link out of the data folder")
    return path


def readable_folder(path: Path) -> bool:
    """Whether there is a folder at the path whose files may be listed and opened."""
    return os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK, effective_ids=True)


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file only says where Git LFS keeps the real one: a clone without `git lfs`."""
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def read_image(path: Path, size: int) -> np.ndarray:
    """A DICOM (.dcm) or picture file (any that Pillow knows) as uint8 (size, size)."""
    try:
        if path.stat().st_size == 0:
            raise UnreadableImageError("the file is empty")
        if is_lfs_pointer(path):
            raise UnreadableImageError("a Git LFS pointer, not the image; run git lfs pull")
        picture = (
            read_dicom(path) if path.suffix.lower() in (".dcm", ".dicom") else read_picture(path)
        )
    except FileNotFoundError:
        raise UnreadableImageError("the file is missing") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from None
    return fit_square(picture, size)


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 (height, width): colour and palette turned to grey, 16 bits scaled to
    8."""
    with Image.open(path) as opened:
        if getattr(opened, "n_frames", 1) > 1:
            raise UnreadableImageError(f"{opened.n_frames} frames in one file")
        opened.load()
        if opened.mode.startswith("I") or opened.mode == "F":
            values = np.asarray(opened, dtype=np.float64)
            return _as_bytes(values / (65_535 if values.max() > 255 else 255))
        return np.asarray(opened.convert("L"))


def read_dicom(path: Path) -> np.ndarray:
    """A DICOM radiograph as uint8 (height, width), bright is dense: rescale and window (or VOI
    table) applied as the file says, the full range of the values where it says nothing, MONOCHROME1
    inverted. Compressed transfer syntaxes are decoded by pylibjpeg."""
    pydicom = import_extra("pydicom", "radiology")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # odd values in headers are common, and not our question
            file = pydicom.dcmread(path)
            if "PixelData" not in file:
                raise UnreadableImageError("no pixel data")
            if int(file.get("NumberOfFrames", 1) or 1) > 1:
                raise UnreadableImageError(f"multi-frame ({file.NumberOfFrames} frames)")
            meaning = file.get("PhotometricInterpretation", "")
            if meaning not in ("MONOCHROME1", "MONOCHROME2"):
                raise UnreadableImageError(
                    f"photometric interpretation {meaning or 'missing'}, not MONOCHROME1 or 2"
                )
            return _grey(file, file.pixel_array)
    except UnreadableImageError:
        raise
    # pydicom and its decoders raise errors of many kinds for damaged or unknown content.
    except Exception as error:
        raise UnreadableImageError(
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None


def _grey(file, stored: np.ndarray) -> np.ndarray:
    """Stored values as grey ones, uint8. What the header asks for is worked out once for each value
    that a pixel may have, and looked up: several times faster than for each pixel."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    few = stored.dtype.itemsize <= 2
    if few:
        limits = np.iinfo(stored.dtype)
        values = np.arange(limits.min, limits.max + 1, dtype=np.int64).astype(stored.dtype)
        positions = stored.astype(np.int32) - limits.min if limits.min else stored
    else:
        values, positions = stored, None
    values = apply_voi_lut(apply_modality_lut(values, file), file, index=0).astype(np.float64)
    low, high = _window_range(file) or _own_range(values, positions)
    grey = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
    if file.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return _as_bytes(grey).take(positions) if few else _as_bytes(grey)


def _as_bytes(grey: np.ndarray) -> np.ndarray:
    """[0, 1] as uint8."""
    return (np.clip(grey, 0, 1) * 255).round().astype(np.uint8)


def _own_range(values: np.ndarray, positions: np.ndarray | None) -> tuple[float, float]:
    """Least and largest of the values that occur."""
    if positions is not None:
        occurs = np.zeros(len(values), dtype=bool)
        occurs[positions] = True
        values = values[occurs]
    return float(values.min()), float(values.max())


def _window_range(file) -> tuple[float, float] | None:
    """What black and white are after pydicom has applied a window or table; None where the file has
    neither."""
    if file.get("VOILUTSequence"):
        return 0.0, 2.0 ** file.VOILUTSequence[0].LUTDescriptor[2] - 1
    if file.get("WindowCenter") is None or file.get("WindowWidth") is None:
        return None
    if file.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** file.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits = int(file.BitsStored)
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if file.PixelRepresentation else (0, 2**bits - 1)
    )
    slope, intercept = (
        float(file.get("RescaleSlope", 1) or 1),
        float(file.get("RescaleIntercept", 0) or 0),
    )
    ends = (low * slope + intercept, high * slope + intercept)
    return min(ends), max(ends)


def fit_square(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture, uint8 (height, width), as uint8 (size, size): padded to a square with black, then
    resized."""
    height, width = picture.shape
    if min(height, width) == 0:
        raise UnreadableImageError("the picture has no pixels")
    side = max(height, width)
    square = picture
    if height != width:
        square = np.zeros((side, side), dtype=np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = picture
    if side == size:
        return square
    return np.asarray(
        Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    )
