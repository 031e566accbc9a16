"""What a checkpoint says about its encoder besides the weights."""

import argparse

import pytest
import torch
from torch import nn
from torchvision.models import ResNet, resnet18, resnet50
from torchvision.models.resnet import BasicBlock

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.errors import DataError, UsageError


@pytest.fixture(scope="module")
def cifar():
    return build_trunk("resnet18", "cifar").state_dict()


@pytest.fixture
def saved(tmp_path):
    def save(content, name="model.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def with_prefix(state, prefix):
    return {prefix + key: tensor for key, tensor in state.items()}


def features(module, images):
    with torch.no_grad():
        return module.eval()(images).flatten(1)


def parity(path, original, side=32, **choice):
    """The report, after comparing the loaded encoder's features with the original's."""
    encoder, report = load_encoder(EncoderChoice(str(path), **choice))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(features(encoder, images), features(original, images), rtol=1e-5, atol=1e-5)
    return report


def test_solo_learn_pads_its_cifar_stem_by_2(saved, cifar):
    original = build_trunk("resnet18", "cifar", variant=TrunkVariant(stem_padding=2))
    original.load_state_dict(cifar)
    heads = {"classifier.weight": torch.zeros(10, 512), "projector.0.weight": torch.zeros(9, 512)}
    path = saved({"state_dict": with_prefix(cifar, "backbone.") | heads})
    report = parity(path, original)
    assert (report.family, report.variant) == ("solo-learn", {"stem_padding": 2})
    assert not any("stem" in sentence for sentence in report.assumptions)
    (path.parent / "args.json").write_text(
        '{"method": "simsiam", "backbone": {"name": "resnet18"}, "data": {"dataset": "cifar100"}}'
    )
    report = parity(path, original)
    assert report.normalization == {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]}
    assert report.normalization_from == "solo-learn's normalization of cifar100"


def test_an_unknown_cifar_stem_is_an_assumption_that_options_change(saved, cifar):
    path = saved(cifar)
    report = load_encoder(path)[1]
    assert "Assumed a 3x3 stem with stride 1, padding 1, no max pooling, which" in report.assumptions[0]
    original = build_trunk("resnet18", "cifar", variant=TrunkVariant(stem_stride=2, stem_pool=True))
    original.load_state_dict(cifar)
    report = parity(path, original, stem_stride=2, stem_pool=True)
    assert report.variant == {"stem_stride": 2, "stem_pool": True}
    assert "Assumed a 3x3 stem with padding 1, which" in report.assumptions[0]


@pytest.mark.parametrize("parts", ["conv1 bn1", "conv1 bn1 relu", "conv1 bn1 relu maxpool"])
def test_the_indices_of_a_sequential_show_its_stem(saved, parts):
    trunk = resnet18()
    layers = [getattr(trunk, name) for name in parts.split()] + [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    original = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
    report = parity(saved({"state_dict": original.state_dict()}), original, side=64)
    assert report.variant.get("stem_relu", True) is ("relu" in parts)
    assert report.variant.get("stem_pool", True) is ("maxpool" in parts)


def test_a_pickled_module_shows_its_strides(saved):
    original = resnet50()
    for block in (original.layer2[0], original.layer3[0], original.layer4[0]):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    original.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    original.fc = nn.Identity()
    report = parity(saved({"model": original}), original, side=64)
    assert report.variant == {"stem_stride": 2, "stem_pool": True, "stride_in_1x1": True}
    assert not any("Assumed torchvision" in sentence for sentence in report.assumptions)


@pytest.mark.parametrize(("dilated", "stride"), [([False, False, True], 16), ([False, True, True], 8)])
def test_a_dilated_resnet(saved, dilated, stride):
    original = resnet50(replace_stride_with_dilation=dilated)
    original.fc = nn.Identity()
    assert parity(saved(original), original, side=64).variant == {"output_stride": stride}
    path = saved(original.state_dict())
    assert parity(path, original, side=64, output_stride=stride).variant == {"output_stride": stride}


def test_output_stride_needs_bottleneck_blocks(saved, cifar):
    with pytest.raises(
        UsageError, match="--output-stride cannot be used with resnet18, which has no bottleneck blocks"
    ):
        load_encoder(EncoderChoice(str(saved(cifar)), output_stride=8))


def test_a_pickled_module_that_is_no_torchvision_resnet(saved):
    odd = resnet50()
    odd.layer3[1].conv2.dilation = (2, 2)
    with pytest.raises(DataError, match=r"has layer3\.1\.conv2 with dilation .* torchvision's resnet50 has"):
        load_encoder(saved(odd))
    other = resnet18()
    other.layer2[0].relu = nn.GELU()
    with pytest.raises(DataError, match=r"GELU in layer2\.0\.relu"):
        load_encoder(saved(other))


def test_anti_aliased_networks_are_computed_by_timm(saved):
    timm = pytest.importorskip("timm")
    original = timm.create_model("resnetaa50").eval()
    state = original.state_dict()
    images = torch.randn(2, 3, 64, 64)
    expected = original.forward_head(original.forward_features(images), pre_logits=True)
    for content in (
        {"arch": "resnetaa50", "state_dict": state},
        {"args": argparse.Namespace(model="resnetaa50.a1_in1k"), "state_dict": state},
    ):
        encoder, report = load_encoder(saved(content))
        assert report.arch == "timm:resnetaa50"
        torch.testing.assert_close(features(encoder, images), expected.detach(), rtol=1e-5, atol=1e-5)


def test_a_resnet_that_only_timm_has(saved):
    timm = pytest.importorskip("timm")
    original = timm.create_model("resnet26d").eval()
    path = saved(original.state_dict())
    assert load_encoder(path)[1].arch == "timm:resnet26d"
    with pytest.raises(UsageError, match="keys and shapes of resnet18, not of --arch resnet34"):
        load_encoder(EncoderChoice(str(saved(resnet18().state_dict())), arch="resnet34"))


def test_hub_folder(saved):
    path = saved(resnet18().state_dict())
    config = path.parent / "config.json"
    config.write_text(
        '{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}'
    )
    report = load_encoder(path)[1]
    assert report.family == "timm"
    assert (report.normalization, report.normalization_from) == ({"mean": [0.5] * 3, "std": [0.2] * 3}, "config.json")
    config.write_text('{"architecture": "resnet18", "model_args": {"act_layer": "gelu"}}')
    pytest.importorskip("timm")
    images = torch.randn(2, 3, 64, 64)
    encoder, report = load_encoder(path)
    assert report.arch == "timm:resnet18"
    plain = resnet18()
    plain.load_state_dict(torch.load(path))
    plain.fc = nn.Identity()
    assert (features(encoder, images) - features(plain, images)).abs().max() > 0.01


def test_caffe_style_of_openmmlab(saved):
    original = build_trunk("resnet50", variant=TrunkVariant(stride_in_1x1=True))
    text = "backbone = dict(style='caffe')\nnorm = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])"
    path = saved({"meta": {"cfg": text}, "state_dict": with_prefix(original.state_dict(), "backbone.")})
    report = parity(path, original, side=64, channel_order="rgb")
    assert report.variant == {"stride_in_1x1": True}
    assert report.normalization["mean"] == pytest.approx([103.53 / 255, 116.28 / 255, 123.675 / 255])


def test_our_own_checkpoints_say_everything(saved, cifar):
    content = {"epoch": 1, "arch": "resnet18", "state_dict": with_prefix(cifar, "module.encoder."), "simsiam_eval": {}}
    assert load_encoder(saved(content))[1].assumptions == ()


def test_another_block_than_torchvisions(saved):
    class Squeezed(BasicBlock):
        pass

    Squeezed.__module__, Squeezed.__qualname__ = __name__, "Squeezed"
    globals()["Squeezed"] = Squeezed
    with pytest.raises(DataError, match=r"Squeezed in layer1\.0"):
        load_encoder(saved(ResNet(Squeezed, [2, 2, 2, 2])))


def test_mmengine_writes_one_number_of_the_normalization_per_line(tmp_path):
    mean = "norm = dict(\n    mean=[\n        127.5,\n        102.0,\n        51.0,\n    ],\n num_classes=10,"
    std = "\n    std=[\n        51.0,\n        51.0,\n        51.0,\n    ],\n    to_rgb=True)\n"
    path = tmp_path / "epoch_100.pth"
    torch.save({"state_dict": build_trunk("resnet18").state_dict(), "meta": {"cfg": mean + std}}, path)
    assert load_encoder(path)[1].normalization == {"mean": [0.5, 0.4, 0.2], "std": [0.2, 0.2, 0.2]}


def test_an_assumption_names_options_that_the_encoder_can_have(saved):
    for model, options in ((resnet18(), "(--arch)"), (resnet50(), "(--arch, --output-stride, --stride-in-1x1)")):
        assumption = load_encoder(saved(model.state_dict()))[1].assumptions[0]
        assert assumption.startswith("Assumed torchvision's")
        assert options in assumption


def test_the_backbone_of_a_dilated_segmentation_network(saved):
    original = resnet50(replace_stride_with_dilation=[False, True, True])
    original.fc = nn.Identity()
    head = {"classifier.0.weight": torch.zeros(9, 2048, 3, 3)}
    path = saved({"model": with_prefix(original.state_dict(), "backbone.") | head})
    report = parity(path, original, side=64, branch="backbone")
    assert report.variant == {"output_stride": 8}
    assert "Assumed output stride 8" in report.assumptions[0]


def test_a_sequential_without_pooling_leaves_stride_and_padding_open(saved):
    trunk = build_trunk("resnet18", "cifar")
    layers = [trunk.conv1, trunk.bn1, trunk.relu, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    state = nn.Sequential(*layers).state_dict()
    assumption = load_encoder(saved(with_prefix(state, "own.")))[1].assumptions[0]
    assert "stem with stride 1, padding 1, which" in assumption


def test_a_damaged_config_is_an_error(saved):
    path = saved(resnet18().state_dict())
    (path.parent / "config.json").write_text('{"architecture": "resnetaa18", ')
    with pytest.raises(DataError, match=r"config\.json beside the weights cannot be read as JSON"):
        load_encoder(path)
