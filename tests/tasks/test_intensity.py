"""--intensity: images of more than 8 bits, in every command that computes features and in pretrain."""

import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import simsiam_eval as se
from simsiam_eval.runtime import notes

SIDE = 32
RNG = np.random.default_rng(0)
PREPARED = ("--transform", "cifar", "--mean", "0.5", "--std", "0.25")


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The checkpoint of a ResNet-18 with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "resnet18.pth"
    torch.save(models.resnet18().state_dict(), path)
    return path


def write(folder, largest, ending=".png", dtype=np.uint16, classes=("cat", "dog"), count=4):
    """Class folders of noise from 0 to `largest`; returns gray values (N,H,W) in the order of the rows."""
    images = []
    for number, name in enumerate(classes):
        for index in range(count):
            path = folder / name / f"{name}{index}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = RNG.random((SIDE, SIDE)) * largest * (1 if number else 0.5)
            values[0, 0] = largest
            images.append(values.astype(dtype))
            Image.fromarray(images[-1]).save(path)
    return np.stack(images)


def as_eight_bits(folder, values, low, high):
    """The same images with 8 bits."""
    for number, image in enumerate(values):
        levels = np.floor(np.clip((image.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)
        path = folder / f"{number // 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(path)
    return folder


def features(path):
    with h5py.File(path) as file:
        return file["features"][:], json.loads(file.attrs["preprocessing"])


@pytest.mark.parametrize(
    ("setting", "recorded", "span"),
    [
        ("auto", {"uint16": [0, 65535]}, (0, 65535)),
        ("dtype", "dtype", (0, 65535)),
        ("0:4095", [0, 4095], (0, 4095)),
        ("100:3000", [100, 3000], (100, 3000)),
    ],
)
def test_features_are_those_of_the_same_images_with_eight_bits(record, encoder, tmp_path, setting, recorded, span):
    values = write(tmp_path / "wide", 4095)
    given = ["extract", "--checkpoint", encoder, *PREPARED]
    record(*given, "--data", tmp_path / "wide", "--out", tmp_path / "wide.h5", "--intensity", setting)
    record(*given, "--data", as_eight_bits(tmp_path / "byte", values, *span), "--out", tmp_path / "byte.h5")
    (wide, preprocessing), (byte, plain) = features(tmp_path / "wide.h5"), features(tmp_path / "byte.h5")
    np.testing.assert_array_equal(wide, byte)
    assert preprocessing == plain | {"intensity": recorded}
    sampled = record("verify", tmp_path / "wide.h5", "--checkpoint", encoder, "--data", tmp_path / "wide")
    assert sampled["metrics"]["faults"] == []


def test_other_scales_are_not_mixed_and_the_sentence_says_which_to_give(record, call, encoder, tmp_path):
    write(tmp_path / "a", 4095)
    given = ["extract", "--checkpoint", encoder, "--data", tmp_path / "a", *PREPARED]
    for name, setting in (("a", "0:4095"), ("b", "auto"), ("c", "0:65535")):
        record(*given, "--out", tmp_path / f"{name}.h5", "--intensity", setting)
    result = call("knn", "--train", tmp_path / "a.h5", "--test", tmp_path / "b.h5", "--k", 1)
    assert result.exit_code == 1
    assert "differ in preprocessing.intensity; extract both with the same scale, --intensity 0:4095." in result.stderr
    record("knn", "--train", tmp_path / "b.h5", "--test", tmp_path / "c.h5", "--k", 1)  # the same scale, said otherwise
    result = call(*given, "--out", tmp_path / "a.h5", "--intensity", "0:65535")
    assert result.exit_code == 1
    assert "preprocessing.intensity" in result.stderr
    result = call("knn", "--train", tmp_path / "a.h5", "--test", tmp_path / "b.h5", "--k", 1, "--intensity", "0:1")
    assert "--intensity applies to images only" in result.stderr


def test_training_set_decides_for_the_test_set(record, call, encoder, tmp_path):
    write(tmp_path / "train", 250, ".tif", np.float32)
    write(tmp_path / "test", 0.9, ".tif", np.float32)
    sets = ["--train", tmp_path / "train", "--test", tmp_path / "test", "--checkpoint", encoder, *PREPARED]
    result = call("knn", *sets, "--k", 1, "--json")
    assert result.exit_code == 0, result.stderr
    provenance = json.loads(result.stdout)["provenance"]
    assert provenance["train"]["preprocessing"]["intensity"] == {"float": [0, 255]}
    assert provenance["test"]["preprocessing"]["intensity"] == {"float": [0, 255]}
    assert "of 8 float images in a sample of" in result.stderr
    assert "but black is 0 and white 255; give --intensity 0:0." in result.stderr
    record("extract", "--checkpoint", encoder, "--data", tmp_path / "test", *PREPARED, "--out", tmp_path / "test.h5")
    sets[3] = tmp_path / "test.h5"
    made = record("knn", *sets, "--k", 1)["provenance"]  # the images of --train follow the feature file
    assert made["train"]["preprocessing"]["intensity"] == {"float": [0, 1]}


def test_recorded_scale_is_applied_to_new_images(record, call, encoder, tmp_path):
    write(tmp_path / "train", 4000, ".tif", np.int32)
    given = ["--checkpoint", encoder, *PREPARED]
    record("extract", *given, "--data", tmp_path / "train", "--out", tmp_path / "f.h5", "--intensity", "0:4095")
    query = tmp_path / "train" / "dog" / "dog1.tif"
    found = record("retrieval", "search", query, "--gallery", tmp_path / "f.h5", "--checkpoint", encoder, "--k", 1)
    assert "dog/dog1.tif" in json.dumps(found["metrics"])
    head = ["--save-head", tmp_path / "head.safetensors", "--epochs", 2, "--preset", "logistic"]
    record("linear-eval", "--train", tmp_path / "f.h5", "--test", tmp_path / "f.h5", *head[:2], *head[4:])
    classified = record("predict", "--checkpoint", encoder, "--head", head[1], "--data", tmp_path / "train")
    assert classified["metrics"]["images"] == 8
    result = call("extract", *given, "--data", tmp_path / "train", "--out", tmp_path / "g.h5")
    assert "int32 values from 0 to 3,999 have no common scale" in result.stderr


def test_shards_and_end_to_end_have_one_scale(record, encoder, tmp_path):
    write(tmp_path / "train", 4000, ".tif", np.int32)
    given = ["--checkpoint", encoder, *PREPARED]
    for rows in ("0:4", "4:8"):
        out = tmp_path / f"{rows[0]}.h5"
        record("extract", *given, "--data", tmp_path / "train", "--out", out, "--rows", rows)
    scales = [features(tmp_path / f"{name}.h5")[1]["intensity"] for name in "04"]
    assert scales[0] == scales[1]
    assert scales[0]["int32"][1] > 3900  # the images of cat alone end at half of that
    record("merge", tmp_path / "0.h5", tmp_path / "4.h5", "--out", tmp_path / "all.h5")
    options = ["--preset", "moco-sgd", "--epochs", 1, "--batch-size", 2, "--end-to-end", "--out", tmp_path / "run"]
    sets = ["--train", tmp_path / "train", "--test", tmp_path / "train"]
    assert record("linear-eval", *given, *sets, *options)["metrics"]["trained_on"] == "end-to-end"


def test_pretrain_records_the_scale_and_extract_keeps_it(record, tmp_path):
    write(tmp_path / "data", 4000, classes=("cat", "dog"), count=8)
    options = ["--preset", "digits", "--image-size", 8, "--data", tmp_path / "data", "--batch-size", 8]
    run = record("pretrain", *options, "--epochs", 1, "--out", tmp_path / "run", "--intensity", "0:4095")
    checkpoint = run["files"]["checkpoint"]
    metadata = torch.load(checkpoint, weights_only=True)["simsiam_eval"]
    assert metadata["preprocessing"]["intensity"] == [0, 4095]
    record("extract", "--checkpoint", checkpoint, "--data", tmp_path / "data", "--out", tmp_path / "f.h5")
    assert features(tmp_path / "f.h5")[1]["intensity"] == {"uint16": [0, 4095]}
    again = record("pretrain", *options, "--epochs", 2, "--out", tmp_path / "new", "--val", tmp_path / "data",
                   "--knn-k", 3)  # fmt: skip
    assert torch.load(again["files"]["checkpoint"], weights_only=True)["simsiam_eval"]["preprocessing"][
        "intensity"
    ] == {"uint16": [0, 65535]}


def test_python_needs_a_fixed_scale_where_there_is_no_source(encoder):
    values = RNG.random((SIDE, SIDE)).astype(np.float32)
    loaded = se.load_encoder(encoder, transform="cifar", intensity="dtype")
    levels = np.floor(values * 255 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(loaded.embed(values), loaded.embed(levels))
    np.testing.assert_array_equal(loaded.embed(Image.fromarray(values)), loaded.embed(levels))
    torch.testing.assert_close(loaded.preprocess(values), loaded.preprocess(levels), rtol=0, atol=0)
    auto = se.load_encoder(encoder, transform="cifar")
    with pytest.raises(
        se.DataError, match="float32, and which of them are black and white is unknown; give --intensity"
    ):
        auto.embed([values])
    np.testing.assert_array_equal(
        auto.embed(np.full((SIDE, SIDE), 257 * 9, np.uint16)), auto.embed(np.full((SIDE, SIDE), 9, np.uint8))
    )
    extracted = se.extract(auto, [values, values])  # a list of images is a source
    np.testing.assert_array_equal(extracted.features, loaded.embed([values, values]))
