"""Preprocessing: equal to torchvision, and chosen by user, checkpoint and stem."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.decode import open_image
from simsiam_eval.images.opened import DecodedImage
from simsiam_eval.images.preprocess import Preprocessing, preprocessing_for
from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

STATED = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
OWN = {"preprocessing": {"resize": 8, "crop": 8, "mean": [0.7] * 3, "std": [0.8] * 3}}

SIZES = [
    (60, 40),
    (40, 60),
    (20, 20),
    (33, 97),
    (97, 33),
    (1, 1),
    (1, 5),
    (7, 1),
    (2, 3),
    (32, 41),
    (255, 254),
    (28, 640),
]


def torchvisions(resize, crop):
    return v2.Compose([v2.Resize(resize), v2.CenterCrop(crop), v2.PILToTensor()])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(32, 28), (32, 32), (27, 22), (20, 33), (70, 64)])
def test_equals_torchvisions_test_transform(size, resize, crop):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    pixels = Preprocessing(resize, crop).pixels(DecodedImage(np.array(image)))
    assert pixels.dtype == torch.uint8
    difference = (pixels.int() - torchvisions(resize, crop)(image).int()).abs()
    # Gray levels. Two where both passes of the resize round a value half-way; never in a photograph that shrinks.
    assert difference.max() <= 2
    assert (difference > 1).float().mean() <= 1e-3
    assert difference.float().mean() <= 0.3


@pytest.mark.parametrize("size", [(480, 640), (375, 500), (301, 225), (1200, 1601)])
def test_equals_torchvision_on_photographs_to_one_gray_level(size):
    for pixels in load_sample_images().images:
        image = Image.fromarray(pixels).resize(size[::-1])
        resized = Preprocessing().pixels(DecodedImage(np.array(image)))
        difference = (resized.int() - torchvisions(256, 224)(image).int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() <= 0.02


@pytest.mark.parametrize("size", [(3, 100), (100, 3), (10, 201)])
def test_only_the_middle_of_a_strip_is_resized(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    difference = Preprocessing(20, 16).pixels(DecodedImage(np.array(image))).int() - torchvisions(20, 16)(image).int()
    assert difference.abs().max() <= 1


def test_strip_that_would_not_fit_into_memory_when_resized():
    strip = DecodedImage(np.full((1, 1_000_000, 3), 7, np.uint8))  # 196 GB at 256 px
    assert (Preprocessing().pixels(strip) == 7).all()


def test_normalize_equals_torchvision():
    pixels = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    torch.testing.assert_close(Preprocessing().normalize(pixels), theirs(pixels), rtol=1e-6, atol=1e-6)


def photo(width, height):
    file = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).resize((width, height)).save(file, "JPEG", quality=90)
    return open_image(file.getvalue())


@pytest.mark.parametrize(
    ("size", "factor"), [((127, 200), 1), ((128, 128), 2), ((255, 257), 2), ((401, 300), 4), ((640, 511), 4)]
)
def test_scaled_decoding_keeps_twice_the_resolution(size, factor, monkeypatch):
    image, factors = photo(*size), []
    reduced = image.reduced
    monkeypatch.setattr(image, "reduced", lambda factor: factors.append(reduced(factor)[1]) or reduced(factor))
    whole, scaled = (Preprocessing(32, 28, decode=decode).pixels(image).float() for decode in ("full", "scaled"))
    assert factors == [1, factor]
    assert torch.equal(whole, scaled) == (factor == 1)
    assert (whole - scaled).abs().mean() < 1  # gray levels


def test_plain_values_round_trip():
    chosen = Preprocessing(resize=10, crop=8, mean=(0.1, 0.2, 0.3))
    assert Preprocessing.from_dict(chosen.to_dict()) == chosen
    scaled = Preprocessing(decode="scaled")
    assert Preprocessing.from_dict(scaled.to_dict()) == scaled
    assert scaled.to_dict() != Preprocessing().to_dict()


def test_record_without_decode_means_full():
    old = {"resize": 256, "crop": 224, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    assert Preprocessing.from_dict(old) == Preprocessing(decode="full")
    assert Preprocessing(decode="full").to_dict() == old  # so that features of both can be used together


def test_decode_comes_from_the_user_then_the_checkpoint():
    metadata = {"preprocessing": Preprocessing(decode="scaled").to_dict()}
    assert preprocessing_for("imagenet", None).decode == "full"
    assert preprocessing_for("imagenet", metadata).decode == "scaled"
    assert preprocessing_for("imagenet", metadata, decode="full").decode == "full"


@pytest.mark.parametrize(
    ("stem", "metadata", "options", "sizes"),
    [
        ("imagenet", None, {}, (256, 224)),
        ("cifar", None, {}, (32, 32)),
        ("imagenet", None, {"crop": 448}, (512, 448)),
        ("cifar", None, {"crop": 64}, (64, 64)),
        ("imagenet", None, {"resize": 224}, (224, 224)),
        ("imagenet", None, {"resize": 320, "crop": 288}, (320, 288)),
        ("cifar", {"preprocessing": Preprocessing(10, 8).to_dict()}, {}, (10, 8)),
        ("cifar", {"preprocessing": Preprocessing(10, 8).to_dict()}, {"resize": 12}, (12, 8)),
        ("cifar", {"preprocessing": Preprocessing(10, 8).to_dict()}, {"transform": "imagenet"}, (256, 224)),
        ("imagenet", None, {"transform": "cifar", "crop": 28}, (28, 28)),
    ],
)
def test_sizes_come_from_the_user_then_the_checkpoint_then_the_stem(stem, metadata, options, sizes):
    chosen = preprocessing_for(stem, metadata, **options)
    assert (chosen.resize, chosen.crop) == sizes


def test_squash_keeps_the_whole_image():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (36, 0, 40, 20))  # a right edge that a center crop would lose
    image = DecodedImage(np.array(image))
    squashed = Preprocessing(resize=20, crop=20, squash=True)
    assert squashed.pixels(image).shape == (3, 20, 20)
    assert squashed.pixels(image)[:, :, -1].min() > 250
    assert Preprocessing(resize=20, crop=20).pixels(image).max() == 0
    assert Preprocessing.from_dict(squashed.to_dict()) == squashed


@pytest.mark.parametrize("damaged", [{"resize": "x", "crop": 8}, {"resize": 0, "crop": 8, "mean": [0], "std": [1]}, {}])
def test_damaged_record_of_a_checkpoint_is_rejected(damaged):
    with pytest.raises(DataError, match="preprocessing stored in the checkpoint"):
        preprocessing_for("imagenet", {"preprocessing": {"resize": 8} | damaged})


def test_crop_larger_than_the_resized_image_is_rejected():
    with pytest.raises(UsageError, match="--resize 8 is smaller than --crop 64"):
        preprocessing_for("imagenet", None, resize=8, crop=64)


@pytest.mark.parametrize(
    ("metadata", "normalization", "options", "expected"),
    [
        (None, None, {}, (IMAGENET_MEAN, IMAGENET_STD)),
        (None, STATED, {}, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
        (None, STATED, {"transform": "squash"}, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
        (OWN, STATED, {}, ((0.7,) * 3, (0.8,) * 3)),
        (OWN, STATED, {"transform": "cifar"}, ((0.7,) * 3, (0.8,) * 3)),
        (OWN, STATED, {"mean": (0.5,)}, ((0.5,) * 3, (0.8,) * 3)),
        (None, None, {"std": (0.1, 0.2, 0.3)}, (IMAGENET_MEAN, (0.1, 0.2, 0.3))),
    ],
)
def test_normalization_is_that_of_options_then_records_then_the_checkpoint(metadata, normalization, options, expected):
    chosen = preprocessing_for("imagenet", metadata, normalization, **options)
    assert (chosen.mean, chosen.std) == expected


def test_mean_has_a_value_per_channel():
    with pytest.raises(UsageError, match="--mean must have one value or 3, one per channel, got 2"):
        preprocessing_for("imagenet", None, mean=(0.1, 0.2))


@pytest.mark.parametrize("shape", [(20, 20), (40, 30), (16, 400)])  # as it is, resized, and a strip
def test_gray_images_stay_exactly_gray(shape):
    gray = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = DecodedImage(np.repeat(gray[:, :, None], 3, axis=2))
    one, three = (Preprocessing(20, 20, channels=channels).pixels(image) for channels in (1, 3))
    assert one.shape == (1, 20, 20)
    assert torch.equal(one.expand(3, -1, -1), three)


def test_colors_become_gray_as_in_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    gray = Preprocessing(20, 20, channels=1).pixels(DecodedImage(pixels))
    assert np.array_equal(gray[0].numpy(), np.asarray(Image.fromarray(pixels).convert("L")))


def test_number_of_channels_is_recorded_unless_it_is_three():
    gray = preprocessing_for("cifar", OWN, channels=1)
    assert gray.mean == pytest.approx((0.7,))
    assert gray.std == pytest.approx((0.8,))
    assert gray.to_dict()["channels"] == 1
    assert Preprocessing.from_dict(gray.to_dict()) == gray
    assert "channels" not in Preprocessing().to_dict()
