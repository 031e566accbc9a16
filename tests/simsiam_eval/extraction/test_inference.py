"""The encoder prepared for fast inference against the encoder itself."""

import copy
import pickle
import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from simsiam_eval.encoders.encoder import Encoder, build_trunk
from simsiam_eval.extraction import fused_blocks, inference
from simsiam_eval.extraction.inference import FeatureModel
from simsiam_eval.images.preprocess import TRANSFORMS
from simsiam_eval.vocabulary import LAYERS

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


def can(precision):
    return fused_blocks.can_fuse(CPU, precision)


def is_fused(model):
    return isinstance(model._encoder.trunk.layer1[0], fused_blocks._FusedBlock)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available(), reason="no oneDNN for this processor"
)
def test_blocks_are_fused_where_onednn_is_available():
    assert can("float32")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_layer_is_the_encoders(arch, stem, fused):
    encoder = encoder_of(arch, stem)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = FeatureModel(encoder, TRANSFORMS[stem], CPU, fuse=fused)
    assert is_fused(model) == (fused and can("float32"))
    for pixels in (pixels_of(), pixels_of(rows=2, side=64), pixels_of()):  # weights are ordered for each shape anew
        with torch.no_grad():
            expected = encoder.all_layers(TRANSFORMS[stem].normalize(pixels))
        for found, wanted in zip(model(pixels), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("arch", ARCHS)
def test_bf16_is_close_and_fusing_adds_no_error(arch):
    encoder, pixels = encoder_of(arch, layers=("pool",)), pixels_of(rows=8)
    (exact,) = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)(pixels)
    model = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, "bf16")
    assert is_fused(model) == can("bf16")
    plain = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, "bf16", fuse=False)
    errors = [float(np.linalg.norm(each(pixels)[0] - exact) / np.linalg.norm(exact)) for each in (model, plain)]
    assert 0 < errors[0] < 0.01
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("stage", ["layer1", "layer4"])
@pytest.mark.parametrize("convs", [("conv1", "conv2"), ("conv2", "conv3"), ("conv3", "conv3")])
def test_an_overflow_stays_visible(convs, stage, precision):
    """Weights are finite, sums are not: infinity, and then infinity less infinity, which no ReLU may make a 0 of."""
    encoder = encoder_of("resnet50", layers=("pool",))
    first, second = getattr(encoder.trunk, stage)[:2]
    with torch.no_grad():
        getattr(first, convs[0]).weight.mul_(1e22)
        getattr(second if convs[0] == convs[1] else first, convs[1]).weight.mul_(1e22)
    assert all(value.isfinite().all() for value in encoder.state_dict().values())
    (found,) = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, precision)(pixels_of())
    assert not np.isfinite(found).all(axis=1).any()


def test_a_used_model_can_be_copied():
    model, pixels = FeatureModel(encoder_of("resnet18"), TRANSFORMS["imagenet"], CPU), pixels_of()
    found = model(pixels)
    for one, two in zip(found, copy.deepcopy(model)(pixels), strict=True):
        assert np.array_equal(one, two)
    assert len(pickle.dumps(model._encoder)) > 0


def test_the_input_of_a_stage_is_not_overwritten():
    """ResNet-18's first block adds its input to its output: the stem's features are asked for, too."""
    encoder, pixels = encoder_of("resnet18", layers=("stem", "layer1"), pooling="max"), pixels_of()
    with torch.no_grad():
        expected = encoder.all_layers(TRANSFORMS["imagenet"].normalize(pixels))
    for found, wanted in zip(FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)(pixels), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)


def test_pixels_are_not_changed():
    pixels = pixels_of()
    kept = pixels.clone()
    normal = TRANSFORMS["imagenet"].normalize(pixels)
    assert torch.equal(pixels, kept)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (TRANSFORMS["imagenet"].mean, TRANSFORMS["imagenet"].std))
    assert torch.equal(normal, (pixels.float() / 255 - mean) / std)


class Operators:
    """Those of torch, but for the changed ones."""

    def __init__(self, **changed):
        self.__dict__.update(changed)

    def __getattr__(self, name):
        return getattr(torch.ops.mkldnn, name)


def relu_of_nan_is_zero(maps, weight, bias, *geometry_and_then):
    return torch.ops.mkldnn._convolution_pointwise(maps, weight, bias, *geometry_and_then[:4], "relu", [], "")


class NoSum:
    @staticmethod
    def binary(other, *_):
        return other


@pytest.mark.parametrize(
    "operators",
    [object(), Operators(_convolution_pointwise=relu_of_nan_is_zero), Operators(_convolution_pointwise_=NoSum)],
    ids=["missing", "of no NaN", "no sum"],
)
def test_without_torchs_private_operators_features_are_those_of_the_plain_path(operators, monkeypatch):
    monkeypatch.setattr(fused_blocks, "_ONEDNN", operators)
    fused_blocks._are_correct.cache_clear()
    before = torch.random.get_rng_state()
    try:
        assert not can("float32")
        assert torch.equal(torch.random.get_rng_state(), before)
        encoder, pixels = encoder_of("resnet18"), pixels_of()
        model = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)
        plain = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, fuse=False)
        assert not is_fused(model)
        assert all(np.array_equal(*pair) for pair in zip(model(pixels), plain(pixels), strict=True))
    finally:
        fused_blocks._are_correct.cache_clear()


def test_another_kind_of_block_is_rejected():
    trunk = build_trunk("resnet18")
    trunk.layer3[1] = nn.Identity()
    with pytest.raises(ValueError, match="not a block of torchvision's ResNets: Identity"):
        fused_blocks.fuse_blocks(trunk)


def test_threads_that_start_together_compile_once(monkeypatch):
    compiled, real = [], torch.compile

    def counting(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(inference, "require_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: real(model, dynamic=dynamic, backend=counting))
    model = FeatureModel(encoder_of("resnet18"), TRANSFORMS["imagenet"], torch.device("cpu"), compile=True)
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = list(pool.map(model, [pixels_of()] * 8))
    torch.set_num_threads(torch.get_num_threads())
    assert len(compiled) == 1
    assert all(np.array_equal(one, other) for layers in found for one, other in zip(layers, found[0], strict=True))
