"""One image from Python, prepared as a file of a source is."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import open_image
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.images.transform import ImageTransform, as_opened_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
PREPROCESSING = Preprocessing(resize=16, crop=12)


def test_every_form_of_an_image_gives_the_same_tensor(tmp_path):
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "image.png")
    transform = ImageTransform(PREPROCESSING)
    expected = PREPROCESSING.normalize(PREPROCESSING.pixels(open_image(tmp_path / "image.png"))[None])[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    for form in (image, PIXELS, tmp_path / "image.png", str(tmp_path / "image.png"), file.getvalue()):
        assert torch.equal(transform(form), expected)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), expected)


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1)])
def test_a_gray_array_has_three_equal_channels(shape):
    pixels = as_opened_image(PIXELS[:, :, 0].reshape(shape)).pixels()
    assert pixels.shape == (30, 40, 3)
    assert (pixels == PIXELS[:, :, :1]).all()


def test_a_transparent_pillow_image_lies_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (as_opened_image(clear).pixels() == 255).all()


@pytest.mark.parametrize(
    "image", [3, None, PIXELS.astype(np.complex64), PIXELS[None], RNG.integers(0, 255, (4, 4, 2), dtype=np.uint8)]
)
def test_what_is_not_an_image_is_named(image):
    with pytest.raises(TypeError, match="an image must be a Pillow image, a path, bytes or an array"):
        as_opened_image(image)


def test_a_file_that_cannot_be_decoded_is_said(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png: "):
        ImageTransform(PREPROCESSING)(tmp_path / "bad.png")
    with pytest.raises(DataError, match=r"missing\.png: "):
        ImageTransform(PREPROCESSING)(tmp_path / "missing.png")
