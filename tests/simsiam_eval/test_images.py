"""Every stored form of an image becomes the RGB image a viewer shows; damage has a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from simsiam_eval.images import UnreadableImage, decode_rgb

RED_GREEN = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data):
    image = decode_rgb(data)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colours_are_kept(mode):
    assert np.array_equal(decoded(stored(Image.fromarray(RED_GREEN).convert(mode))), RED_GREEN)


def test_cmyk():
    found = decoded(stored(Image.fromarray(RED_GREEN).resize((16, 16), 0).convert("CMYK"), "TIFF"))
    assert np.abs(found[0, 0].astype(int) - RED_GREEN[0, 0]).max() <= 1


def test_grey_has_three_equal_channels():
    found = decoded(stored(Image.fromarray(np.array([[7, 200]], dtype=np.uint8))))
    assert found.tolist() == [[[7] * 3, [200] * 3]]


def test_sixteen_bits_are_scaled_not_clipped():
    found = decoded(stored(Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))))
    assert found[0, :, 0].tolist() == [0, 128, 255]


def test_transparent_lies_on_white():
    found = decoded(stored(Image.new("RGBA", (1, 1), (0, 0, 0, 0))))
    assert found.tolist() == [[[255, 255, 255]]]


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert np.array_equal(decoded(stored(Image.fromarray(RED_GREEN), exif=exif)), RED_GREEN[:, ::-1])


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"text", lambda data: data[: len(data) // 2]])
def test_damage_is_unreadable(damage):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    with pytest.raises(UnreadableImage):
        decode_rgb(damage(stored(Image.fromarray(pixels), "JPEG")))


def test_missing_file_and_bomb(tmp_path, monkeypatch):
    with pytest.raises(UnreadableImage, match="no such file"):
        decode_rgb(tmp_path / "none.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(UnreadableImage, match="too many pixels"):
        decode_rgb(stored(Image.fromarray(RED_GREEN)))
