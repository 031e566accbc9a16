"""The encoder made ready for speed against the encoder as it is."""

import numpy as np
import pytest
import torch
from torch import nn

from simsiam_eval import fused_blocks, inference
from simsiam_eval.architectures import LAYERS
from simsiam_eval.encoder import Encoder, build_trunk
from simsiam_eval.inference import FeatureModel
from simsiam_eval.preprocess import TRANSFORMS

CPU = torch.device("cpu")
ARCHS = ["resnet18", "resnet50", "resnext50_32x4d"]


def encoder_of(arch, stem="imagenet", layers=LAYERS, pooling="avg"):
    """With statistics and scales that no layer starts with."""
    torch.manual_seed(0)
    trunk = build_trunk(arch, stem)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.1)
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return Encoder(trunk, arch, stem, layers, pooling).eval()


def pixels_of(rows=3, side=48, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (rows, 3, side, side), dtype=np.uint8))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_layer_is_the_encoders(arch, stem, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(inference, "can_fuse", lambda device, dtype: False)
    encoder = encoder_of(arch, stem)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = FeatureModel(encoder, TRANSFORMS[stem], CPU)
    for pixels in (pixels_of(), pixels_of(rows=2, side=64), pixels_of()):  # weights are ordered for each shape anew
        with torch.no_grad():
            expected = encoder.all_layers(TRANSFORMS[stem].normalise(pixels))
        for found, wanted in zip(model(pixels), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("arch", ARCHS)
def test_bf16_is_close_and_no_further_where_it_is_fused(arch, monkeypatch):
    encoder, pixels = encoder_of(arch, layers=("pool",)), pixels_of(rows=8)
    (exact,) = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)(pixels)
    (fused,) = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, "bf16")(pixels)
    monkeypatch.setattr(inference, "can_fuse", lambda device, dtype: False)
    (apart,) = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, "bf16")(pixels)
    away = [float(np.linalg.norm(one - exact) / np.linalg.norm(exact)) for one in (fused, apart)]
    assert 0 < away[0] < 0.01
    assert away[0] < 1.2 * away[1]


def test_what_enters_a_stage_is_not_written_on():
    """ResNet-18's first block adds its input to its output: the stem's features are asked for, too."""
    encoder, pixels = encoder_of("resnet18", layers=("stem", "layer1"), pooling="max"), pixels_of()
    with torch.no_grad():
        expected = encoder.all_layers(TRANSFORMS["imagenet"].normalise(pixels))
    for found, wanted in zip(FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)(pixels), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)


def test_pixels_are_left_as_they_are():
    pixels = pixels_of()
    kept = pixels.clone()
    normal = TRANSFORMS["imagenet"].normalise(pixels)
    assert torch.equal(pixels, kept)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (TRANSFORMS["imagenet"].mean, TRANSFORMS["imagenet"].std))
    assert torch.equal(normal, (pixels.float() / 255 - mean) / std)


@pytest.mark.parametrize("broken", ["missing", "wrong"])
def test_where_the_operators_are_missing_or_wrong_nothing_is_fused(broken, monkeypatch):
    class Wrong:
        @staticmethod
        def _reorder_convolution_weight(weight, *_):
            return weight

        @staticmethod
        def _convolution_pointwise(maps, *_):
            return torch.zeros_like(maps)

    monkeypatch.setattr(fused_blocks, "_onednn", lambda: Wrong if broken == "wrong" else object())
    fused_blocks._are_right.cache_clear()
    try:
        assert not fused_blocks.can_fuse(CPU, torch.float32)
        FeatureModel(encoder_of("resnet18"), TRANSFORMS["imagenet"], CPU)(pixels_of())
    finally:
        fused_blocks._are_right.cache_clear()


def test_another_kind_of_block_is_refused():
    trunk = build_trunk("resnet18")
    trunk.layer3[1] = nn.Identity()
    with pytest.raises(ValueError, match="not a block of torchvision's ResNets: Identity"):
        fused_blocks.fuse_blocks(trunk)
