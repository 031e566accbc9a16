"""State dicts: what was written is what was given, and its readers compute the same."""

import dataclasses

import pytest
import torch

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.export.writer import _REASONS, missing_packages
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import UsageError


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize(
    ("target", "family"),
    [("reference", "simsiam"), ("torchvision", "torchvision"), ("timm", "torchvision"), ("safetensors", "torchvision")],
)
def test_exported_encoder_is_loaded_again(exported, target, family, stem, tmp_path):
    export, encoder, _ = exported(target, "encoder.pth", stem=stem)
    path = tmp_path / "encoder.pth"
    assert export.files == {"checkpoint": path}
    assert export.weights == len(encoder.trunk.state_dict())
    assert export.comparison is None or export.comparison.largest_difference == 0
    loaded = load_encoder(path)[1]
    expected = weights_sha256(encoder.trunk.state_dict(), {})
    assert (loaded.family, loaded.stem, loaded.weights_sha256) == (family, stem, expected)
    assert export.notes
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(missing_packages("lightly") is not None, reason="needs lightly")
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_lightly_computes_the_same_features(exported, stem):
    export, _, _ = exported("lightly", "encoder.ckpt", stem=stem)
    assert export.comparison.consumer.startswith("lightly ")
    assert export.comparison.largest_difference == 0
    assert export.comparison.min_cosine == pytest.approx(1)


def test_lightly_keys(exported, tmp_path):
    exported("lightly", "encoder.ckpt")
    state = torch.load(tmp_path / "encoder.ckpt", weights_only=True)["state_dict"]
    assert next(iter(state)) == "backbone.0.weight"
    assert "backbone.4.0.conv1.weight" in state
    assert "backbone.7.1.bn2.running_var" in state


@pytest.mark.parametrize("target", ["reference", "safetensors", "timm", "timm-folder", "transformers", "lightly"])
def test_architectures_of_our_own_are_rejected(exported, target, tmp_path):
    name = {"timm-folder": "folder", "transformers": "folder", "safetensors": "a.safetensors"}.get(target, "a.pth")
    with pytest.raises(
        UsageError, match=r"cannot rebuild this encoder \(the architecture resnet10_x0_5\). Use --to onnx"
    ):
        exported(target, name, arch="resnet10_x0_5")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["lightly", "timm"])
def test_stem_is_carried_by_lines_of_code(exported, target, tmp_path):
    variant = TrunkVariant(channels=1, stem_padding=2, stem_pool=True)
    export, _, _ = exported(target, "a.pth", stem="cifar", variant=variant)
    assert any("Conv2d(1, 64, kernel_size=3, stride=1, padding=2" in note for note in export.notes)
    if missing_packages(target) is None:
        assert export.comparison.largest_difference == 0
    _, report = load_encoder(tmp_path / "a.pth")
    assert report.variant == variant.to_dict("cifar")
    assert not any("stem" in text for text in report.assumptions)


@pytest.mark.parametrize(
    ("target", "variant", "reason"),
    [
        ("torchvision", TrunkVariant(stem_padding=2), "padding 2 in the first convolution"),
        ("timm", TrunkVariant(stem_relu=False), "no ReLU in the stem"),
        ("lightly", TrunkVariant(stride_in_1x1=True), "strides in the 1x1 convolutions"),
    ],
)
def test_what_a_library_cannot_rebuild_is_rejected(exported, target, variant, reason, tmp_path):
    with pytest.raises(UsageError, match=f"cannot rebuild this encoder .{reason}.*--to onnx"):
        exported(target, "a.pth", variant=variant)
    assert not (tmp_path / "a.pth").exists()


def test_every_difference_of_a_trunk_has_a_reason():
    assert _REASONS.keys() == {field.name for field in dataclasses.fields(TrunkVariant)}
