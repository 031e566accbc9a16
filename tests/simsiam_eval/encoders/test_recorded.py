"""What `convert` wrote is the same encoder of the same images when it is read back."""

import json

import pytest
import torch

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.export import export
from simsiam_eval.encoders.export.targets import TARGETS
from simsiam_eval.encoders.export.writer import Conversion
from simsiam_eval.encoders.recorded import recorded_variant
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.images.preprocess import Preprocessing

PREPARED = {
    "center": Preprocessing(41, 36, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), interpolation="bicubic"),
    "squash": Preprocessing(36, 36, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), squash=True),
    "gray": Preprocessing(40, 36, (0.4,), (0.1,), channels=1),
    "four": Preprocessing(40, 36, (0.4, 0.5, 0.6, 0.7), (0.1, 0.2, 0.3, 0.4), channels=4),
}


class NoSamples:
    """Instead of images to compare on: what is compared here is read by us."""

    def features(self, encoder):
        return torch.ones(1)


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """converted("timm", "a.safetensors", preprocessing) -> path of what was written, and the encoder."""

    make = export._writer

    def not_compared(conversion, target):
        writer = make(conversion, target)
        monkeypatch.setattr(type(writer), "missing", lambda self: "not to be compared")
        return writer

    monkeypatch.setattr(export, "_writer", not_compared)

    def convert(target, name, preprocessing, stem="imagenet", **variant):
        torch.manual_seed(0)
        given = TrunkVariant(channels=preprocessing.channels, **variant)
        trunk = build_trunk("resnet18", stem, variant=given).eval()
        content = {"state_dict": {f"module.encoder.{key}": value for key, value in trunk.state_dict().items()}}
        torch.save(content | {"simsiam_eval": {"variant": given.to_dict(stem)}}, tmp_path / "original.pth")
        encoder, report = load_encoder(tmp_path / "original.pth")
        export.export_encoder(Conversion(encoder, report, preprocessing, tmp_path / name), TARGETS[target], NoSamples())
        return tmp_path / name, report

    return convert


@pytest.mark.parametrize("prepared", PREPARED)
@pytest.mark.parametrize("target", ["timm-folder", "transformers", "lightly", "timm"])
def test_the_preprocessing_is_that_of_the_original(converted, target, prepared):
    expected = PREPARED[prepared]
    path, original = converted(target, "written.safetensors" if target == "timm" else "written.pth", expected)
    report = load_encoder(path)[1]
    assert ExtractionOptions().preprocessing(report) == expected
    assert report.weights_sha256 == original.weights_sha256
    if "folder" not in target and target != "transformers":
        assert report.assumptions == ()


@pytest.mark.parametrize("target", ["lightly", "timm"])
def test_the_stem_is_that_of_the_original(converted, target):
    name = "written.safetensors" if target == "timm" else "written.pth"
    path, original = converted(target, name, Preprocessing(32, 32), "cifar", stem_padding=2)
    report = load_encoder(path)[1]
    assert (report.variant, report.weights_sha256) == ({"stem_padding": 2}, original.weights_sha256)


def test_files_of_a_folder_count_more_than_metadata(converted):
    path, _ = converted("timm-folder", "folder", PREPARED["center"])
    config = json.loads((path / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 72, 72]
    (path / "config.json").write_text(json.dumps(config))
    assert ExtractionOptions().preprocessing(load_encoder(path)[1]).crop == 72


def test_a_variant_of_a_newer_version():
    assert recorded_variant(None, "a.pth") is None
    with pytest.raises(DataError, match=r"a\.pth records an unknown variant of its trunk"):
        recorded_variant({"variant": {"stem_color": "red"}}, "a.pth")
