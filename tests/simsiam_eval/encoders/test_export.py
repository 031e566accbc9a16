"""Every export target: what was written is what was given."""

import pytest
import torch

from simsiam_eval.encoders.checkpoint import load_encoder, weights_sha256
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.export import export_encoder


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize(
    ("target", "family"),
    [("reference", "simsiam"), ("torchvision", "torchvision"), ("timm", "torchvision"), ("safetensors", "torchvision")],
)
def test_exported_encoder_is_loaded_again(target, family, stem, tmp_path):
    torch.save(build_trunk("resnet18", stem).state_dict(), tmp_path / "trunk.pth")
    encoder, report = load_encoder(tmp_path / "trunk.pth")
    path = tmp_path / "encoder.pth"
    export = export_encoder(path, target, encoder, report)
    assert export.files == {"checkpoint": path}
    assert weights_sha256(export.weights, {}) == report.weights_sha256
    loaded = load_encoder(path)[1]
    assert (loaded.family, loaded.stem, loaded.weights_sha256) == (family, stem, report.weights_sha256)
    assert export.notes
