"""A trunk whose first convolution pads by 2, through every command that computes its features."""

import json

import h5py
import numpy as np
import pytest
import torch

import simsiam_eval as se
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.sources.opening import open_source

SIZE = 12


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A file, and the module with padding 2 that it belongs to."""
    torch.manual_seed(0)
    model = build_trunk("resnet18", "cifar").eval()
    model.conv1.padding = (2, 2)
    path = tmp_path_factory.mktemp("trunk") / "padded.pth"
    torch.save(model.state_dict(), path)
    return path, model


@pytest.fixture(scope="module")
def files(record, trunk, photos, tmp_path_factory):
    """Features with padding 2, and with torchvision's."""
    folder = tmp_path_factory.mktemp("variants")
    common = ["extract", "--checkpoint", trunk[0], "--data", photos, "--crop", SIZE, "--workers", 0]
    record(*common, "--stem-padding", 2, "--out", folder / "padded.h5")
    record(*common, "--out", folder / "plain.h5")
    return folder


@torch.no_grad()
def expected_features(model, photos, **normalization):
    source, preprocessing = open_source(str(photos)), Preprocessing(resize=SIZE, crop=SIZE, **normalization)
    rows = [row for row in range(len(source)) if row != 7]
    pixels = torch.stack([preprocessing.pixels(source.image(row)) for row in rows])
    return rows, model(preprocessing.normalize(pixels)).numpy()


def test_features_are_those_of_the_module(files, trunk, photos):
    rows, expected = expected_features(trunk[1], photos)
    with h5py.File(files / "padded.h5") as file:
        np.testing.assert_allclose(file["features"][:][rows], expected, rtol=1e-4, atol=1e-5)
        assert '"variant": {"stem_padding": 2}' in file.attrs["encoder"]
    with h5py.File(files / "plain.h5") as file:
        assert not np.allclose(file["features"][:][rows], expected, rtol=1e-2)
        assert "variant" not in file.attrs["encoder"]


def test_mean_and_std_are_applied_and_recorded(record, trunk, photos, tmp_path):
    options = ["--mean", "0.4,0.5,0.6", "--std", "0.25", "--stem-padding", 2, "--crop", SIZE, "--workers", 0]
    made = record("extract", "--checkpoint", trunk[0], "--data", photos, "--out", tmp_path / "f.h5", *options)
    mean, std = [0.4, 0.5, 0.6], [0.25] * 3
    assert made["provenance"]["preprocessing"] == {"resize": SIZE, "crop": SIZE, "mean": mean, "std": std}
    rows, expected = expected_features(trunk[1], photos, mean=mean, std=std)
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_allclose(file["features"][:][rows], expected, rtol=1e-4, atol=1e-5)


def test_verify_takes_the_variant_from_the_file(call, record, files, trunk, photos):
    given = ["--checkpoint", trunk[0], "--data", photos, "--sample", 4]
    for name, padding in (("padded", 2), ("plain", 1)):
        assert record("verify", files / f"{name}.h5", *given)["metrics"]["faults"] == []
        assert record("verify", files / f"{name}.h5", *given, "--stem-padding", padding)["metrics"]["faults"] == []
        result = call("verify", files / f"{name}.h5", *given, "--stem-padding", 3)
        assert result.exit_code == 2
        assert (
            f"--stem-padding contradicts {files / name}.h5, whose encoder has stem padding {padding}" in result.stderr
        )


def test_an_encoder_of_bgr_images(call, record, files, trunk, photos, tmp_path):
    """Its features are those of the encoder whose first convolution it has in the other order."""
    path, common = tmp_path / "bgr.pth", ["--data", photos, "--crop", SIZE, "--workers", 0]
    state = torch.load(trunk[0])
    torch.save(state | {"conv1.weight": state["conv1.weight"].flip(1)}, path)
    order = ["--channel-order", "bgr"]
    made = record("extract", "--checkpoint", path, *order, *common, "--out", tmp_path / "f.h5")
    assert made["provenance"]["encoder"]["channel_order"] == "bgr"
    with h5py.File(tmp_path / "f.h5") as file, h5py.File(files / "plain.h5") as plain:
        np.testing.assert_array_equal(file["features"][:], plain["features"][:])
    assert record("verify", files / "plain.h5", "--checkpoint", path, *order)["metrics"]["faults"] == []
    result = call("verify", tmp_path / "f.h5", "--checkpoint", path)
    assert "the features are of --channel-order bgr" in result.stdout + result.stderr
    record("convert", path, *order, "--to", "safetensors", "--out", tmp_path / "rgb.safetensors")
    converted, original = (
        record("inspect", *given)["metrics"] for given in ((tmp_path / "rgb.safetensors",), (path, *order))
    )
    assert converted["weights_sha256"] == original["weights_sha256"]
    assert "bgr, from --channel-order; the first convolution is reversed" in " ".join(
        call("inspect", path, *order).stdout.split()
    )


def test_features_of_two_variants_are_never_mixed(call, files, trunk):
    result = call("knn", "--train", files / "padded.h5", "--test", files / "plain.h5")
    assert result.exit_code == 1
    assert "they differ in encoder.variant, encoder.weights_sha256" in result.stderr
    result = call("extract", "--checkpoint", trunk[0], "--data", "digits", "--out", files / "padded.h5", "--limit", 2)
    assert "contains features of another encoder" in result.stderr


def test_options_of_a_checkpoint_require_one(call, record, files, trunk):
    sets = ["--train", files / "padded.h5", "--test", files / "padded.h5", "-k", 1]
    result = call("knn", *sets, "--stem-padding", 2)
    assert result.exit_code == 2
    assert "--stem-padding requires --checkpoint" in result.stderr
    for name in ("stem_padding", "mean"):
        assert name not in record("knn", *sets)["settings"]
    assert record("knn", *sets, "--checkpoint", trunk[0])["settings"]["stem_padding"] is None


def test_images_and_features_together(record, files, trunk, photos):
    """kNN, a linear head trained end to end, and its predictions."""
    given = ["--checkpoint", trunk[0], "--stem-padding", 2, "--crop", SIZE, "--workers", 0]
    on_images = record("knn", "--train", photos, "--test", photos, *given, "-k", 3)
    on_files = record("knn", "--train", files / "padded.h5", "--test", files / "padded.h5", "-k", 3)
    assert on_images["metrics"]["top1"] == on_files["metrics"]["top1"]
    head = files / "head.safetensors"
    ends = record(
        "linear-eval", "--train", photos, "--test", photos, *given, "--end-to-end", "--save-head", head,
        "--preset", "small", "--epochs", 2,
    )  # fmt: skip
    digest = ends["provenance"]["train"]["encoder"]["weights_sha256"]
    assert ends["provenance"]["end_to_end"]["weights_sha256_before"] == digest
    predicted = record("predict", "--checkpoint", trunk[0], "--head", head, "--data", photos, "--workers", 0)
    assert predicted["metrics"]["top1"] == ends["metrics"]["top1"]
    assert predicted["provenance"]["encoder"]["variant"] == {"stem_padding": 2}


def test_search_takes_the_variant_from_the_gallery(record, files, trunk, photos):
    image = next((photos / "ants").glob("*.png"))
    made = record("retrieval", "search", image, "--gallery", files / "padded.h5", "--checkpoint", trunk[0], "-k", 1)
    assert made["metrics"]["found"][0]["neighbors"][0]["similarity"] == pytest.approx(1, abs=1e-4)


@pytest.mark.usefixtures("messages_name_arguments")
def test_python_interface(files, trunk, photos, tmp_path):
    encoder = se.load_encoder(trunk[0], stem_padding=2, mean=0.5, std=(0.5, 0.25, 0.5))
    assert encoder.preprocess.preprocessing.mean == (0.5, 0.5, 0.5)
    assert encoder.preprocess.preprocessing.std == (0.5, 0.25, 0.5)
    in_memory = se.extract(encoder, photos, crop=SIZE, workers=0)
    written = se.extract(encoder, photos, tmp_path / "f.h5", crop=SIZE, workers=0)
    assert written.attributes["preprocessing"]["std"] == [0.5, 0.25, 0.5]
    assert written.attributes["encoder"] == in_memory.attributes["encoder"]
    np.testing.assert_allclose(in_memory.X, written.X[:], rtol=1e-4, atol=1e-5)
    padded = se.open_features(files / "padded.h5")
    like = se.extract(trunk[0], photos, like=padded, workers=0)  # takes the variant over
    np.testing.assert_allclose(like.X, padded.X[:], rtol=1e-4, atol=1e-5)
    with pytest.raises(se.UsageError, match="stem_padding contradicts"):
        se.extract(trunk[0], photos, like=padded, stem_padding=1)
    with pytest.raises(se.UsageError, match=r"load_encoder\(..., stem_padding=...\) decides it"):
        se.extract(encoder, photos, stem_padding=2)
    with pytest.raises(se.UsageError, match="mean must have one value or 3"):
        se.load_encoder(trunk[0], mean=[0.5, 0.5])


def test_a_branch_is_recorded_and_does_not_make_equal_encoders_differ(call, record, photos, tmp_path):
    """A file with two networks, and another that has one of them alone."""
    networks = {}
    for seed, name in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        networks[name] = build_trunk("resnet18", "cifar").state_dict()
    prefixed = {name: {f"backbone.{key}": value for key, value in state.items()} for name, state in networks.items()}
    torch.save(prefixed, tmp_path / "both.pth")
    torch.save(networks["student"], tmp_path / "student.pth")
    common = ["--data", photos, "--crop", SIZE, "--workers", 0]
    out = tmp_path / "f.h5"
    made = record("extract", "--checkpoint", tmp_path / "both.pth", "--branch", "student", *common, "--out", out)
    branch = made["provenance"]["encoder"]["branch"]
    assert "student" in branch
    again = record("extract", "--checkpoint", tmp_path / "student.pth", *common, "--out", out)
    assert again["metrics"]["computed"] == 0
    assert "branch" not in again["provenance"]["encoder"]
    assert record("verify", out, "--checkpoint", tmp_path / "student.pth")["metrics"]["faults"] == []
    (fault,) = json.loads(call("verify", out, "--checkpoint", tmp_path / "both.pth", "--json").stdout)["metrics"][
        "faults"
    ]
    assert f"from another encoder than {tmp_path}/both.pth" in fault
    assert f"; the features are of --branch {branch}." in fault
