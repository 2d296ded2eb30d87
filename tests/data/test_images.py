"""Reading one image file, whatever it is, as a grey square of bytes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from forget_mi.data.images import UnreadableImageError, read_image


def dicom(path: Path, values: np.ndarray, **header) -> Path:
    import pydicom

    from forget_mi.data.export import write_dicom

    write_dicom(path, np.zeros(values.shape, np.uint8), "1", "1", inverted=False)
    file = pydicom.dcmread(path)
    del file.WindowCenter, file.WindowWidth
    for name, value in header.items():
        setattr(file, name, value)
    file.PixelData = values.tobytes()
    file.save_as(path)
    return path


GRADIENT = np.linspace(0, 4095, 32 * 32).reshape(32, 32)


@pytest.mark.parametrize(
    ("values", "header", "expected"),
    [
        (GRADIENT.astype(np.uint16), {}, GRADIENT / 4095),
        (
            GRADIENT.astype(np.uint16),
            {"PhotometricInterpretation": "MONOCHROME1"},
            1 - GRADIENT / 4095,
        ),
        (
            GRADIENT.astype(np.uint16),
            {"WindowCenter": 1000.5, "WindowWidth": 1001},
            np.clip((GRADIENT.astype(np.uint16) - 1000.0) / 1000 + 0.5, 0, 1),
        ),
        (
            (GRADIENT - 2048).astype(np.int16),
            {"PixelRepresentation": 1, "RescaleSlope": 2, "RescaleIntercept": 100},
            GRADIENT / 4095,
        ),
        (
            GRADIENT.astype(np.uint16),
            {
                "RescaleSlope": 1,
                "RescaleIntercept": -1024,
                "WindowCenter": 1023.5,
                "WindowWidth": 4096,
            },
            GRADIENT / 4095,
        ),
    ],
)
def test_rescale_window_and_inversion(tmp_path, values, header, expected):
    found = read_image(dicom(tmp_path / "x.dcm", values, **header), 32) / 255
    np.testing.assert_allclose(found, expected, atol=1 / 255)


def test_compressed_dicom_is_decoded(tmp_path):
    import pydicom
    from pydicom.uid import JPEG2000Lossless, RLELossless

    plain = dicom(tmp_path / "plain.dcm", GRADIENT.astype(np.uint16))
    for syntax in (RLELossless, JPEG2000Lossless):
        file = pydicom.dcmread(plain)
        file.compress(syntax)
        file.save_as(tmp_path / "packed.dcm")
        assert np.array_equal(read_image(tmp_path / "packed.dcm", 32), read_image(plain, 32))


def test_pictures_of_every_kind_become_grey_bytes(tmp_path):
    values = (GRADIENT / 4095 * 255).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values).convert("RGB").save(tmp_path / "colour.png")
    Image.fromarray(values).convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "palette.png"
    )
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    grey = read_image(tmp_path / "grey.png", 32)
    assert np.array_equal(grey, values)
    for name in ("colour", "palette", "deep"):
        difference = read_image(tmp_path / f"{name}.png", 32).astype(int) - grey
        assert np.abs(difference).max() <= 2, name
    (tmp_path / "x.png").write_bytes((tmp_path / "grey.png").read_bytes()[:80])
    with pytest.raises(UnreadableImageError):
        read_image(tmp_path / "x.png", 32)


def test_a_wide_picture_is_padded_not_stretched(tmp_path):
    Image.fromarray(np.full((16, 32), 200, np.uint8)).save(tmp_path / "wide.png")
    found = read_image(tmp_path / "wide.png", 32)
    assert (found[:8] == 0).all()
    assert (found[8:24] == 200).all()
