import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from simsiam_eval.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preprocessing_for
from simsiam_eval.settings import FeatureSettings


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (20, 20), (33, 97)])
def test_equals_torchvisions_test_transform(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    ours = Preprocessing(resize=32, crop=28)
    theirs = v2.Compose(
        [v2.Resize(32), v2.CenterCrop(28), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
         v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )  # fmt: skip
    assert ours.pixels(image).dtype == torch.uint8
    torch.testing.assert_close(ours.normalise(ours.pixels(image)[None])[0], theirs(image), rtol=1e-6, atol=1e-6)


def test_plain_values_make_it_again():
    chosen = Preprocessing(resize=10, crop=8, mean=(0.1, 0.2, 0.3))
    assert Preprocessing.from_dict(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    ("stem", "own", "asked", "sizes"),
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
def test_sizes_come_from_the_user_then_the_checkpoint_then_the_stem(stem, own, asked, sizes):
    chosen = preprocessing_for(stem, own, FeatureSettings(**asked))
    assert (chosen.resize, chosen.crop) == sizes


def test_squash_cuts_nothing_off():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (36, 0, 40, 20))  # a right edge that a centre crop loses
    squashed = Preprocessing(resize=20, crop=20, squash=True)
    assert squashed.pixels(image).shape == (3, 20, 20)
    assert squashed.pixels(image)[:, :, -1].min() > 250
    assert Preprocessing(resize=20, crop=20).pixels(image).max() == 0
    assert Preprocessing.from_dict(squashed.to_dict()) == squashed
