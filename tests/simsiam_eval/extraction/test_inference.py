"""FeatureModel, with and without fused blocks, gives the features of the encoder itself."""

import copy
import pickle
import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from simsiam_eval.encoders.architectures import TRUNK, TrunkVariant
from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.extraction import fused_blocks, inference
from simsiam_eval.extraction.inference import FeatureModel
from simsiam_eval.images.preprocess import TRANSFORMS, Preprocessing
from simsiam_eval.vocabulary import LAYERS

CPU = torch.device("cpu")
ARCHS = ["resnet18", "resnet50", "resnext50_32x4d"]


def encoder_of(arch, stem="imagenet", layers=LAYERS, pooling="avg", variant=TRUNK):
    """With random statistics and scales, unlike those of a new layer."""
    torch.manual_seed(0)
    trunk = build_trunk(arch, stem, variant=variant)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.1)
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return ResNetEncoder(trunk, arch, stem, layers, pooling, variant).eval()


def pixels_of(rows=3, side=48, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (rows, 3, side, side), dtype=np.uint8))


def can_fuse(precision):
    return fused_blocks.can_fuse(CPU, precision)


def is_fused(model):
    return isinstance(model._encoder.trunk.layer1[0], fused_blocks._FusedBlock)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available(), reason="no oneDNN for this processor"
)
def test_blocks_are_fused_where_onednn_is_available():
    assert can_fuse("float32")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_layer_equals_the_encoder_output(arch, stem, fused):
    encoder = encoder_of(arch, stem)
    original = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = FeatureModel(encoder, TRANSFORMS[stem], CPU, fuse=fused)
    assert is_fused(model) == (fused and can_fuse("float32"))
    for pixels in (pixels_of(), pixels_of(rows=2, side=64), pixels_of()):  # each shape has its own weight layout
        with torch.no_grad():
            expected = encoder.all_layers(TRANSFORMS[stem].normalize(pixels))
        for features, expected_features in zip(model(pixels), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(features), expected_features, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, original[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("stem", "variant"),
    [
        ("cifar", TrunkVariant(stem_padding=2)),
        ("cifar", TrunkVariant(stem_stride=2, stem_pool=True)),
        ("imagenet", TrunkVariant(stem_pool=False, stem_relu=False)),
        ("imagenet", TrunkVariant(channels=1, stride_in_1x1=True)),
    ],
)
def test_variants_of_the_trunk_are_fused_exactly(stem, variant):
    encoder = encoder_of("resnet50", stem, variant=variant)
    model = FeatureModel(encoder, Preprocessing(mean=(0.4,) * variant.channels, std=(0.2,) * variant.channels), CPU)
    assert is_fused(model) == can_fuse("float32")
    pixels = pixels_of(side=33)[:, : variant.channels]
    with torch.no_grad():
        expected = encoder.all_layers(model.preprocessing.normalize(pixels))
        plain = encoder_of("resnet50", stem, variant=TrunkVariant(channels=variant.channels))
        others = plain.all_layers(model.preprocessing.normalize(pixels))
    for features, layer in zip(model(pixels), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(features), layer, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected[-1], others[-1], rtol=1e-2)


@pytest.mark.parametrize("arch", ARCHS)
def test_bf16_is_close_and_fusing_adds_no_error(arch):
    encoder, pixels = encoder_of(arch, layers=("pool",)), pixels_of(rows=8)
    (exact,) = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)(pixels)
    model = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, "bf16")
    assert is_fused(model) == can_fuse("bf16")
    plain = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, "bf16", fuse=False)
    fused_error, plain_error = (
        float(np.linalg.norm(bf16_model(pixels)[0] - exact) / np.linalg.norm(exact)) for bf16_model in (model, plain)
    )
    assert 0 < fused_error < 0.01
    assert fused_error < 1.2 * plain_error


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("stage", ["layer1", "layer4"])
@pytest.mark.parametrize("convs", [("conv1", "conv2"), ("conv2", "conv3"), ("conv3", "conv3")])
def test_overflow_gives_features_that_are_not_finite(convs, stage, precision):
    """Finite weights overflow to infinity and then NaN, which ReLU must not turn into 0."""
    encoder = encoder_of("resnet50", layers=("pool",))
    first, second = getattr(encoder.trunk, stage)[:2]
    with torch.no_grad():
        getattr(first, convs[0]).weight.mul_(1e22)
        getattr(second if convs[0] == convs[1] else first, convs[1]).weight.mul_(1e22)
    assert all(value.isfinite().all() for value in encoder.state_dict().values())
    (features,) = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, precision)(pixels_of())
    assert not np.isfinite(features).all(axis=1).any()


def test_model_can_be_copied_after_use():
    model, pixels = FeatureModel(encoder_of("resnet18"), TRANSFORMS["imagenet"], CPU), pixels_of()
    features = model(pixels)
    for layer, copied_layer in zip(features, copy.deepcopy(model)(pixels), strict=True):
        assert np.array_equal(layer, copied_layer)
    assert len(pickle.dumps(model._encoder)) > 0


def test_the_input_of_a_stage_is_not_overwritten():
    """ResNet-18's first block adds its input, the output of the stem, to its output in place."""
    encoder, pixels = encoder_of("resnet18", layers=("stem", "layer1"), pooling="max"), pixels_of()
    with torch.no_grad():
        expected = encoder.all_layers(TRANSFORMS["imagenet"].normalize(pixels))
    features = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)(pixels)
    for layer, expected_layer in zip(features, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(layer), expected_layer, rtol=1e-4, atol=1e-5)


def test_normalize_does_not_change_its_input():
    pixels = pixels_of()
    original, transform = pixels.clone(), TRANSFORMS["imagenet"]
    normalized = transform.normalize(pixels)
    assert torch.equal(pixels, original)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    assert torch.equal(normalized, (pixels.float() / 255 - mean) / std)


class Operators:
    """The operators of torch.ops.mkldnn, some of them replaced."""

    def __init__(self, **replacements):
        self.__dict__.update(replacements)

    def __getattr__(self, name):
        return getattr(torch.ops.mkldnn, name)


def relu_that_turns_nan_into_zero(maps, weight, bias, *geometry_and_then):
    return torch.ops.mkldnn._convolution_pointwise(maps, weight, bias, *geometry_and_then[:4], "relu", [], "")


class NoSum:
    @staticmethod
    def binary(other, *_):
        return other


@pytest.mark.parametrize(
    "operators",
    [
        object(),
        Operators(_convolution_pointwise=relu_that_turns_nan_into_zero),
        Operators(_convolution_pointwise_=NoSum),
    ],
    ids=["missing", "NaN becomes 0", "no sum"],
)
def test_missing_or_wrong_private_operators_are_not_used(operators, monkeypatch):
    monkeypatch.setattr(fused_blocks, "_ONEDNN", operators)
    fused_blocks._are_correct.cache_clear()
    rng_state = torch.random.get_rng_state()
    try:
        assert not can_fuse("float32")
        assert torch.equal(torch.random.get_rng_state(), rng_state)
        encoder, pixels = encoder_of("resnet18"), pixels_of()
        model = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU)
        plain = FeatureModel(encoder, TRANSFORMS["imagenet"], CPU, fuse=False)
        assert not is_fused(model)
        assert all(np.array_equal(*pair) for pair in zip(model(pixels), plain(pixels), strict=True))
    finally:
        fused_blocks._are_correct.cache_clear()


def test_unknown_block_is_rejected():
    trunk = build_trunk("resnet18")
    trunk.layer3[1] = nn.Identity()
    with pytest.raises(ValueError, match="not a block of torchvision's ResNets: Identity"):
        fused_blocks.fuse_blocks(trunk)


def test_concurrent_threads_compile_once(monkeypatch):
    compiled, torch_compile = [], torch.compile

    def counting_backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(inference, "require_compiler", lambda device: None)
    monkeypatch.setattr(
        torch, "compile", lambda model, dynamic: torch_compile(model, dynamic=dynamic, backend=counting_backend)
    )
    model = FeatureModel(encoder_of("resnet18"), TRANSFORMS["imagenet"], torch.device("cpu"), compile=True)
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        results = list(pool.map(model, [pixels_of()] * 8))
    torch.set_num_threads(torch.get_num_threads())
    assert len(compiled) == 1
    assert all(np.array_equal(*pair) for layers in results for pair in zip(layers, results[0], strict=True))
