"""Encoders of one input channel get gray images in every command; others than of 1 or 3 require --channels."""

import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import simsiam_eval as se
from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

SIDE, CROP = 36, 32
MEAN, STD = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3


@pytest.fixture(scope="module")
def gray(model_of, tmp_path_factory):
    """A file of a ResNet with one input channel, and the module."""
    model, path = model_of(1), tmp_path_factory.mktemp("gray") / "gray.pth"
    torch.save(model.state_dict(), path)
    return path, model


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Color and gray PNGs of two classes, whose short side is that of the resize: resizes differ by gray levels."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index, shape in enumerate(((50, 36, 3), (36, 60, 3), (36, 36), (36, 70))):
        path = folder / f"{index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return folder


def torchvisions(image, mean=MEAN, std=STD):
    """Pillow's gray, then torchvision's transforms."""
    steps = [transforms.PILToTensor(), transforms.Resize(SIDE, antialias=True), transforms.CenterCrop(CROP)]
    steps += [transforms.ConvertImageDtype(torch.float32), transforms.Normalize([mean], [std])]
    return transforms.Compose(steps)(image.convert("L"))


@torch.no_grad()
def expected_features(model, folder, **normalization):
    images = [Image.open(path) for path in sorted(folder.rglob("*.png"), key=lambda path: path.parent.name + path.name)]
    return model(torch.stack([torchvisions(image, **normalization) for image in images])).numpy()


@pytest.mark.parametrize("workers", [[], ["--workers", 1]])
def test_features_are_those_of_torchvision_and_the_module(record, gray, images, tmp_path, workers):
    options = ["--resize", SIDE, "--crop", CROP, *workers]
    made = record("extract", "--checkpoint", gray[0], "--data", images, "--out", tmp_path / "f.h5", *options)
    recorded = made["provenance"]["preprocessing"]
    assert recorded == {"resize": SIDE, "crop": CROP, "mean": [MEAN], "std": [STD], "channels": 1}
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_allclose(file["features"], expected_features(gray[1], images), rtol=1e-5, atol=1e-5)
    checked = record("verify", tmp_path / "f.h5", "--checkpoint", gray[0], "--data", images)
    assert checked["metrics"]["faults"] == []


def test_mean_and_std_are_one_value(record, call, gray, images, tmp_path):
    given = ["extract", "--checkpoint", gray[0], "--data", images, "--resize", SIDE, "--crop", CROP]
    record(*given, "--out", tmp_path / "f.h5", "--mean", 0.4, "--std", 0.3)
    with h5py.File(tmp_path / "f.h5") as file:
        expected = expected_features(gray[1], images, mean=0.4, std=0.3)
        np.testing.assert_allclose(file["features"], expected, rtol=1e-5, atol=1e-5)
    result = call(*given, "--out", tmp_path / "g.h5", "--mean", "0.4,0.5,0.6")
    assert result.exit_code == 2
    assert "--mean must have one value, got 3" in result.stderr


def test_python_gives_the_same_features(gray, images):
    encoder = se.load_encoder(gray[0])
    options = {"resize": SIDE, "crop": CROP}
    expected = expected_features(gray[1], images)
    np.testing.assert_allclose(se.extract(encoder, images, **options).features, expected, rtol=1e-5, atol=1e-5)
    pixels = np.full((300, 256), 77, dtype=np.uint8)
    prepared = encoder.preprocess(pixels)
    assert prepared.shape == (1, 224, 224)
    torch.testing.assert_close(prepared, torch.full((1, 224, 224), (77 / 255 - MEAN) / STD))
    assert encoder.embed(pixels).shape == (1, 512)


def test_augmented_views_are_gray(record, gray, images, tmp_path):
    options = ["--crop", CROP, "--views", 2]
    record("extract", "--checkpoint", gray[0], "--data", images, "--out", tmp_path / "f.h5", *options)
    with h5py.File(tmp_path / "f.h5") as file:
        views = file["views"][:]
        assert views.shape == (4, 2, 512)
        assert (np.abs(views[:, 0] - views[:, 1]).max(axis=1) > 0).all()


def test_knn_of_digits(record, gray):
    options = ["--checkpoint", gray[0], "--transform", "cifar", "--k", 5]
    metrics = record("knn", "--train", "digits#train", "--test", "digits#test", *options)["metrics"]
    assert metrics["top1"] > 0.5


def test_inspect_says_that_the_normalization_is_averaged(record, gray, images):
    metrics = record("inspect", gray[0], "--images", images)["metrics"]
    assert metrics["variant"] == {"channels": 1}
    assert any("over 3 channels, for images of 1 channel" in sentence for sentence in metrics["assumptions"])
    assert len(metrics["features"]["norms"]) == 4


def test_an_encoder_of_four_channels_requires_channels(call, model_of, images, tmp_path):
    path = tmp_path / "four.pth"
    torch.save(model_of(4).state_dict(), path)
    sentence = (
        "The encoder expects images of 4 channels, but images are read as RGB (3 channels) or gray (1 channel); give --"
    )
    for arguments in (
        ("extract", "--checkpoint", path, "--data", images, "--out", tmp_path / "f.h5"),
        ("knn", "--checkpoint", path, "--train", "digits#train", "--test", "digits#test"),
        ("inspect", path, "--images", images),
    ):
        result = call(*arguments)
        assert result.exit_code == 1
        assert sentence in result.stderr.splitlines()[-1]
    encoder = se.load_encoder(path)  # for images that are prepared elsewhere
    assert encoder(torch.zeros(1, 4, 32, 32)).shape == (1, 512)
    with pytest.raises(se.DataError, match="expects images of 4 channels"):
        encoder.embed(np.zeros((8, 8, 3), dtype=np.uint8))


def test_pretraining_does_not_start_from_gray(call, gray, tmp_path):
    small = ["--preset", "digits", "--data", "digits#train", "--stem", "imagenet", "--image-size", 32]
    result = call("pretrain", *small, "--init", gray[0], "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "takes images of 1 channel, but pretrain trains on RGB images (3 channels)" in result.stderr


@pytest.mark.parametrize("channels", [1, 4])
def test_convert_compares_on_images_of_the_encoder(record, model_of, images, tmp_path, channels):
    torch.save(model_of(channels).state_dict(), tmp_path / "a.pth")
    given = ["--to", "torch-export", "--images", images, "--out", tmp_path / "b.pt2", "--mean", 0.5, "--std", 0.25]
    metrics = record("convert", tmp_path / "a.pth", *given)["metrics"]
    assert metrics["min_cosine"] > 0.9999
    assert metrics["compared_images"] == 4


def test_search_and_end_to_end_training_take_images(record, gray, images, tmp_path):
    encoder = ["--checkpoint", gray[0]]
    record("extract", *encoder, "--crop", CROP, "--data", images, "--out", tmp_path / "f.h5")
    query = images / "1" / "3.png"
    found = record("retrieval", "search", query, "--gallery", tmp_path / "f.h5", *encoder, "--k", 1)
    assert "1/3.png" in json.dumps(found["metrics"])
    sets = ["--train", images, "--test", images, "--crop", CROP]
    options = ["--preset", "moco-sgd", "--epochs", 2, "--batch-size", 2, "--end-to-end"]
    metrics = record("linear-eval", *encoder, *sets, *options)["metrics"]
    assert metrics["trained_on"] == "end-to-end"
