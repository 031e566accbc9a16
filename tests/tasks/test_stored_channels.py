"""--channels: images of any number of channels, 16 bits and floats, in every command that computes features."""

import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import simsiam_eval as se

SIDE = 32
MEAN, STD = (0.1, 0.2, 0.3, 0.4), (0.2, 0.3, 0.4, 0.5)
PREPARED = ["--transform", "cifar", "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 65536, (6, SIDE, SIDE, 4), dtype=np.uint16)


@pytest.fixture(scope="module")
def four(model_of, tmp_path_factory):
    """A file of a ResNet with four input channels, and the module."""
    model, path = model_of(4), tmp_path_factory.mktemp("four") / "four.pth"
    torch.save(model.state_dict(), path)
    return path, model


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Six 16-bit images of four channels as .npy files of two classes, with the channels first or last."""
    folder = tmp_path_factory.mktemp("arrays")
    for index, pixels in enumerate(BANDS):
        path = folder / f"{index % 2}" / f"{index}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, pixels if index < 3 else pixels.transpose(2, 0, 1))
    return folder


ROWS = [0, 2, 4, 1, 3, 5]  # the images in the order of the folder


@torch.no_grad()
def expected_features(model, pixels, largest=65535, mean=MEAN, std=STD):
    """Of (N,H,W,C), by torch alone."""
    images = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) / largest
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return model((images - mean) / std).numpy()


def check_features(path, expected):
    with h5py.File(path) as file:
        # Batch normalizations are folded into convolutions, which changes features by rounding.
        np.testing.assert_allclose(file["features"], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("workers", [[], ["--workers", 1]])
def test_features_are_those_of_torch(record, four, arrays, tmp_path, workers):
    given = ["--checkpoint", four[0], "--data", arrays]
    made = record("extract", *given, "--out", tmp_path / "f.h5", "--channels", 4, *PREPARED, *workers)
    assert made["provenance"]["preprocessing"] == {
        "resize": SIDE, "crop": SIDE, "mean": list(MEAN), "std": list(STD), "channels": 4,
        "selection": {"channels": "4", "channel_axis": None}, "intensity": {"uint16": [0, 65535]},
    }  # fmt: skip
    check_features(tmp_path / "f.h5", expected_features(four[1], BANDS[ROWS]))
    assert record("verify", tmp_path / "f.h5", *given)["metrics"]["faults"] == []


def test_indices_and_white(record, four, tmp_path):
    pixels = RNG.integers(0, 4096, (3, SIDE, SIDE, 13), dtype=np.int32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = pixels.transpose(0, 3, 1, 2)
    options = ["--channels", "9-11,2", "--intensity", "0:4095", "--channel-axis", "first", *PREPARED]
    given = ["--checkpoint", four[0], "--data", f"hdf5:{tmp_path / 'a.h5'}"]
    record("extract", *given, "--out", tmp_path / "f.h5", *options)
    check_features(tmp_path / "f.h5", expected_features(four[1], pixels[:, :, :, [9, 10, 11, 2]], 4095))
    assert record("verify", tmp_path / "f.h5", *given)["metrics"]["faults"] == []


def test_networks_of_timm(record, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", in_chans=5, num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    pixels = RNG.random((3, SIDE, SIDE, 5), dtype=np.float32)
    np.save(tmp_path / "x.npy", pixels[0])
    given = ["--checkpoint", f"timm:resnet10t@{tmp_path / 'a.pth'}", "--data", tmp_path / "x.npy", "--channels", 5]
    given += ["--intensity", "0:1", "--transform", "cifar", "--mean", 0.5, "--std", 0.25, "--out", tmp_path / "f.h5"]
    record("extract", *given)
    check_features(tmp_path / "f.h5", expected_features(model, pixels[:1], 1, (0.5,) * 5, (0.25,) * 5))


def test_sixteen_bit_gray_for_gray_and_rgb_encoders(record, model_of, tmp_path):
    gray = RNG.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    for channels, text in ((1, "1"), (3, "0,0,0")):
        model, path = model_of(channels), tmp_path / f"{channels}.pth"
        torch.save(model.state_dict(), path)
        out = tmp_path / f"{channels}.h5"
        options = ["--channels", text, "--transform", "cifar", "--mean", 0.5, "--std", 0.25, "--out", out]
        record("extract", "--checkpoint", path, "--data", tmp_path / "a.png", *options)
        pixels = np.repeat(gray[None, :, :, None], channels, axis=3)
        check_features(out, expected_features(model, pixels, 65535, (0.5,) * channels, (0.25,) * channels))


def test_a_float_image_is_resized_as_torch_resizes_it(record, four, tmp_path):
    pixels = RNG.random((50, 70, 4), dtype=np.float32)
    np.save(tmp_path / "a.npy", pixels)
    options = ["--channels", 4, "--intensity", "0:1", *PREPARED, "--out", tmp_path / "f.h5"]
    record("extract", "--checkpoint", four[0], "--data", tmp_path / "a.npy", *options)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, (32, 44), mode="bilinear", antialias=True)[:, :, :, 6:38]
    check_features(tmp_path / "f.h5", expected_features(four[1], resized.permute(0, 2, 3, 1).numpy(), 1))


def test_a_long_strip_is_resized_like_any_image(four):
    encoder = se.load_encoder(four[0], channels=4, intensity="0:1", mean=0, std=1, transform="cifar")
    pixels = RNG.random((40, 900, 4), dtype=np.float32)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, (32, 720), mode="bilinear", antialias=True)[0, :, :, 344:376]
    torch.testing.assert_close(encoder.preprocess(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (
            [],
            1,
            "The encoder expects images of 4 channels, but images are read as RGB (3 channels) or gray (1 channel); give --",
        ),
        (
            ["--channels", 4],
            1,
            "does not say how its images of 4 channels were normalized; give --mean and --std, each with 4",
        ),
        (["--channels", 4, "--mean", 0.5], 1, "give --mean and --std, each with 4 values or one for all"),
        (
            ["--channels", "0,1,2", *PREPARED],
            2,
            "--channels 0,1,2 gives 3 channels, but the encoder expects images of 4",
        ),
        (["--channels", "0,1,2,7", *PREPARED], 1, "has 4 channels (32 x 32 pixels), but --channels 0,1,2,7 needs 8"),
        (["--channels", 4, "--mean", "1,2", "--std", 1], 2, "--mean must be at most 1"),
        (["--channels", 4, "--decode", "scaled"], 2, "--decode scaled cannot be used with --channels"),
        (["--channels", "4.5"], 2, "--channels '4.5' cannot be read; expected a number, such as 4, or indices from 0"),
        (["--intensity", "255"], 2, "--intensity must be auto, dtype, percentile or LOW:HIGH with LOW below HIGH"),
        (["--intensity", "5:5"], 2, "such as 0:4095, got '5:5'"),
        (["--channel-axis", "first"], 2, "--channel-axis requires --channels"),
    ],
)
def test_what_does_not_fit_is_one_sentence(call, four, arrays, tmp_path, options, status, sentence):
    result = call("extract", "--checkpoint", four[0], "--data", arrays, "--out", tmp_path / "f.h5", *options)
    assert result.exit_code == status
    assert sentence in result.stderr
    assert result.stderr.strip().count("\n") <= 1  # Click adds a hint to usage errors
    assert not (tmp_path / "f.h5").exists()


def test_rgb_images_of_other_types_name_the_option(call, tmp_path):
    torch.save(models.resnet18().state_dict(), tmp_path / "a.pth")
    given = ["extract", "--checkpoint", tmp_path / "a.pth", "--out", tmp_path / "f.h5", "--data"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = BANDS
    result = call(*given, f"hdf5:{tmp_path / 'a.h5'}")
    assert result.exit_code == 1
    assert "has shape (6, 32, 32, 4); expected (N,H,W,3)" in result.stderr
    np.save(tmp_path / "a.npy", BANDS[0])
    result = call(*given, tmp_path / "a.npy", "--strict")
    assert (
        "an array of shape (32, 32, 4) and type uint16 that is not RGB or gray; it requires --channels" in result.stderr
    )


def test_later_images_of_other_channels_are_skipped(record, four, arrays, tmp_path):
    for name, pixels in (("a", BANDS[0]), ("b", BANDS[1, :, :, :3]), ("c", np.full((SIDE, SIDE, 4), np.nan))):
        np.save(tmp_path / f"{name}.npy", pixels)
    options = ["--channels", 4, *PREPARED, "--max-unreadable", 0.9, "--out", tmp_path / "f.h5"]
    made = record("extract", "--checkpoint", four[0], "--data", tmp_path, *options)
    assert made["metrics"]["unreadable"] == 2
    with h5py.File(tmp_path / "f.h5") as file:
        reasons = [reason.decode() for reason in file["errors"]["reason"]]
    assert "has 3 channels (32 x 32 pixels), but --channels expects 4" in reasons[0]
    assert "values are NaN or infinite" in reasons[1]


def test_features_of_other_channels_are_not_mixed(record, call, four, arrays, tmp_path):
    given = ["extract", "--checkpoint", four[0], "--data", arrays, *PREPARED]
    record(*given, "--channels", 4, "--out", tmp_path / "a.h5")
    record(*given, "--channels", "3,2,1,0", "--out", tmp_path / "b.h5")
    result = call("knn", "--train", tmp_path / "a.h5", "--test", tmp_path / "b.h5", "--k", 1)
    assert result.exit_code == 1
    assert "they differ in preprocessing" in result.stderr


def test_evaluations_take_images(record, four, arrays, tmp_path):
    encoder = ["--checkpoint", four[0], "--channels", 4, *PREPARED]
    sets = ["--train", arrays, "--test", arrays]
    assert record("knn", *sets, *encoder, "--k", 1)["metrics"]["top1"] is not None
    options = ["--preset", "moco-sgd", "--epochs", 2, "--batch-size", 2, "--end-to-end", "--out", tmp_path / "run"]
    metrics = record("linear-eval", *encoder, *sets, *options)["metrics"]
    assert metrics["trained_on"] == "end-to-end"


def test_what_was_recorded_is_applied_to_new_images(record, four, arrays, tmp_path):
    encoder = ["--checkpoint", four[0]]
    options = ["--channels", "3,1,0,2", *PREPARED, "--views", 2]
    record("extract", *encoder, "--data", arrays, "--out", tmp_path / "f.h5", *options)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["views"].shape == (6, 2, 512)
        assert (np.abs(file["views"][:, 0] - file["views"][:, 1]).max(axis=1) > 0).all()
    query = arrays / "1" / "3.npy"
    found = record("retrieval", "search", query, "--gallery", tmp_path / "f.h5", *encoder, "--k", 1)
    assert "1/3.npy" in json.dumps(found["metrics"])


def test_inspect_takes_channels(record, call, four, arrays):
    metrics = record("inspect", four[0], "--images", arrays, "--channels", 4, "--mean", 0.5, "--std", 0.5)["metrics"]
    assert len(metrics["features"]["norms"]) == 6
    assert not any("how its images of 4 channels were normalized" in sentence for sentence in metrics["assumptions"])
    assert not any("ImageNet" in sentence for sentence in metrics["assumptions"])
    result = call("inspect", four[0], "--channels", 4)
    assert result.exit_code == 2
    assert "--channels requires --images" in result.stderr
    result = call("inspect", four[0], "--images", arrays, "--channels", "0-3,9", "--mean", 0.5, "--std", 0.5)
    assert "--channels 0,1,2,3,9 gives 5 channels, but the encoder expects images of 4 channels" in result.stderr


def test_python_takes_arrays_and_files(four, arrays):
    with pytest.raises(se.UsageError, match=r"channels '4\.5' cannot be read"):
        se.load_encoder(four[0], channels="4.5")
    encoder = se.load_encoder(four[0], channels=4, mean=MEAN, std=STD, transform="cifar")
    expected = expected_features(four[1], BANDS)
    np.testing.assert_allclose(encoder.embed(BANDS), expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(encoder.embed([arrays / "0" / "0.npy"]), expected[:1], rtol=1e-5, atol=2e-5)
    features = se.extract(encoder, arrays)
    np.testing.assert_allclose(features.features, expected[ROWS], rtol=1e-5, atol=2e-5)
    reordered = se.extract(encoder, arrays, channels=[3, 1, 0, 2])
    wanted = expected_features(four[1], BANDS[ROWS][:, :, :, [3, 1, 0, 2]])
    np.testing.assert_allclose(reordered.features, wanted, rtol=1e-5, atol=2e-5)
    again = se.extract(four[0], arrays, like=reordered)
    np.testing.assert_allclose(again.features, wanted, rtol=1e-5, atol=2e-5)
    prepared = encoder.preprocess(BANDS[0])
    with torch.no_grad():
        assert torch.equal(encoder(prepared[None]), four[1](prepared[None]))
    image = torch.from_numpy(BANDS[0].astype(np.float32)).permute(2, 0, 1) / 65535
    assert torch.equal(prepared, (image - torch.tensor(MEAN).view(4, 1, 1)) / torch.tensor(STD).view(4, 1, 1))
    with pytest.raises(se.DataError, match="has 3 channels"):
        encoder.preprocess(BANDS[0, :, :, :3])
    with pytest.raises(se.UsageError, match="channels cannot be used with like"):
        se.extract(encoder, arrays, like=features, channels=4)


def test_eight_bit_rgb_of_a_multispectral_image_is_chosen_by_index(record, model_of, tmp_path):
    model = model_of(3)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    np.save(tmp_path / "a.npy", BANDS[0])
    options = ["--channels", "2,1,0", "--transform", "cifar", "--mean", 0.5, "--std", 0.25, "--out", tmp_path / "f.h5"]
    record("extract", "--checkpoint", tmp_path / "a.pth", "--data", tmp_path / "a.npy", *options)
    pixels = BANDS[:1, :, :, [2, 1, 0]]
    check_features(tmp_path / "f.h5", expected_features(model, pixels, 65535, (0.5,) * 3, (0.25,) * 3))


def test_channels_from_a_config_file(record, four, arrays, tmp_path):
    text = "channels = [3, 1, 0, 2]\nmean = 0.5\nstd = 0.5\ntransform = 'cifar'\n"
    (tmp_path / "a.toml").write_text(text)
    given = ["--checkpoint", four[0], "--data", arrays, "--out", tmp_path / "f.h5", "--config", tmp_path / "a.toml"]
    assert record("extract", *given)["settings"]["channels"] == "3,1,0,2"


def test_pretraining_reads_rgb_only(call, tmp_path):
    given = ["pretrain", "--preset", "digits", "--out", tmp_path / "run", "--data"]
    result = call(*given, "digits", "--channels", 4)
    assert result.exit_code == 2
    assert "pretrain has no --channels: its augmentation changes colors, which only RGB images have." in result.stderr
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = BANDS
    result = call(*given, f"hdf5:{tmp_path / 'a.h5'}")
    assert result.exit_code == 1
    assert "has shape (6, 32, 32, 4); expected (N,H,W,3)" in result.stderr
