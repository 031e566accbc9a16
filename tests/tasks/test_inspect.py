import pytest
import torch
from PIL import Image

from simsiam_eval.encoders.encoder import build_trunk
from tasks.inspect import InspectSettings, inspect


@pytest.fixture
def two_networks(tmp_path):
    keys = build_trunk("resnet18", "cifar").state_dict()
    content = {
        f"{name}.{key}": tensor + shift for shift, name in enumerate(("left", "right")) for key, tensor in keys.items()
    }
    torch.save(content, tmp_path / "two.pth")
    return tmp_path / "two.pth"


def test_every_key_is_loaded_or_skipped_with_a_reason(record, checkpoint):
    keys = set(torch.load(checkpoint, weights_only=True)["state_dict"])
    metrics = record("inspect", checkpoint)["metrics"]
    assert set(metrics["loaded"]) | set(metrics["skipped"]) == keys
    assert not set(metrics["loaded"]) & set(metrics["skipped"])
    assert all(metrics["skipped"].values())
    assert metrics["loaded"]["module.encoder.layer1.0.conv1.weight"] == "layer1.0.conv1.weight"
    assert any("fc." in key for key in metrics["skipped"])


def test_table_shows_what_the_file_contains(call, checkpoint):
    result = call("inspect", checkpoint)
    assert result.exit_code == 0
    for text in ("resnet18 (cifar stem)", "weights sha256", "loaded (", "skipped (", "512"):
        assert text in result.stdout


def test_networks_are_listed_where_none_is_chosen(call, record, two_networks):
    metrics = record("inspect", two_networks)["metrics"]
    assert metrics["branches"] == ["left", "right"]
    assert [network["arch"] for network in metrics["networks"]] == ["resnet18", "resnet18"]
    table = call("inspect", two_networks).stdout
    assert "left" in table and "choose one with --branch" in table
    chosen = record("inspect", two_networks, "--branch", "right")["metrics"]
    assert (chosen["branch"], chosen["arch"], chosen["branches"]) == ("right", "resnet18", ["left", "right"])


def test_features_of_images_show_whether_the_encoder_has_collapsed(call, record, checkpoint, tmp_path):
    features = record("inspect", checkpoint, "--images", "digits")["metrics"]["features"]
    assert len(features["ids"]) == len(features["norms"]) == 8
    assert features["spread"] > 0.01
    assert 1 < features["rank"] <= 8
    assert "spread" in call("inspect", checkpoint, "--images", "digits").stdout
    dead = {key: torch.zeros_like(tensor) for key, tensor in build_trunk("resnet18", "cifar").state_dict().items()}
    torch.save(dead | {"bn1.running_var": torch.ones(64)}, tmp_path / "dead.pth")
    assert record("inspect", tmp_path / "dead.pth", "--images", "digits")["metrics"]["features"]["spread"] == 0


def test_mean_and_std_of_images(call, record, checkpoint):
    plain = record("inspect", checkpoint, "--images", "digits")["metrics"]["features"]["norms"]
    same = record("inspect", checkpoint, "--images", "digits", "--mean", "0.485,0.456,0.406")
    assert same["metrics"]["features"]["norms"] == plain
    other = record("inspect", checkpoint, "--images", "digits", "--mean", 0.9, "--std", 0.1)
    assert other["metrics"]["features"]["norms"] != pytest.approx(plain, rel=1e-3)
    result = call("inspect", checkpoint, "--std", 0.1)
    assert result.exit_code == 2
    assert "--std requires --images" in result.stderr


def test_images_need_a_chosen_network(call, two_networks):
    result = call("inspect", two_networks, "--images", "digits")
    assert result.exit_code == 1
    assert "choose one with --branch" in result.stderr


def test_unreadable_images_are_skipped(call, record, checkpoint, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    arguments = ("inspect", checkpoint, "--images", tmp_path / "images")
    assert "None of 1 image of" in call(*arguments).stderr
    Image.new("RGB", (40, 40), "red").save(tmp_path / "images" / "red.png")
    features = record(*arguments)["metrics"]["features"]
    assert (len(features["norms"]), features["spread"], features["rank"]) == (1, None, None)
    result = call(*arguments)
    assert "need 2 images" in result.stdout
    assert "broken.jpg: " in result.stderr and "skipped" in result.stderr


def test_a_given_normalization_is_not_assumed(tmp_path):
    torch.save(build_trunk("resnet18").state_dict(), tmp_path / "a.pth")
    given = {"checkpoint": str(tmp_path / "a.pth"), "images": "digits#test"}
    assumptions = inspect(InspectSettings(**given)).metrics["assumptions"]
    assert sum("ImageNet's mean" in sentence for sentence in assumptions) == 1
    normalized = inspect(InspectSettings(**given, mean=(0.5,), std=(0.5,))).metrics["assumptions"]
    assert normalized == [sentence for sentence in assumptions if "ImageNet's mean" not in sentence]
