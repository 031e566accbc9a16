import pytest
import torch

from simsiam_eval.encoders.architectures import ARCHITECTURES, feature_width
from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import LAYERS, MAP_POOLINGS


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_width_is_correct_for_every_layer(arch, stem):
    with torch.device("meta"):
        trunk = build_trunk(arch, stem)
        images = torch.zeros(2, 3, 32, 32)
    for layer in LAYERS:
        encoder = ResNetEncoder(trunk, arch, stem, layer=layer)
        assert encoder(images).shape == (2, encoder.width)
        assert encoder.width == feature_width(arch, layer)


def test_pool_is_the_output_of_the_trunk():
    trunk = build_trunk("resnet18").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ResNetEncoder(trunk, "resnet18", "imagenet")(images), trunk(images))


@pytest.mark.parametrize("layer", LAYERS)
def test_pooling_reduces_the_output_of_the_layer(layer):
    trunk = build_trunk("resnet18", "cifar").eval()
    maps = {}
    modules = {"stem": trunk.maxpool, "pool": trunk.layer4}
    modules.get(layer, getattr(trunk, layer, None)).register_forward_hook(lambda *call: maps.update(out=call[2]))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        average = ResNetEncoder(trunk, "resnet18", "cifar", layer, "avg")(images)
        maximum = ResNetEncoder(trunk, "resnet18", "cifar", layer, "max")(images)
    torch.testing.assert_close(average, maps["out"].mean(dim=(2, 3)))
    assert torch.equal(maximum, maps["out"].amax(dim=(2, 3)))


@pytest.mark.parametrize("pooling", MAP_POOLINGS)
def test_nothing_after_the_layer_is_computed(pooling):
    trunk = build_trunk("resnet18")
    trunk.layer3.register_forward_hook(lambda *_: pytest.fail("layer3 was computed"))
    ResNetEncoder(trunk, "resnet18", "imagenet", "layer2", pooling)(torch.zeros(1, 3, 32, 32))


def test_cifar_stem_keeps_the_resolution_and_is_initialized_as_torchvision_does():
    trunk = build_trunk("resnet18", "cifar")
    assert trunk.conv1.weight.shape == (64, 3, 3, 3)
    assert trunk.conv1.bias is None
    assert trunk.maxpool(trunk.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)
    assert float(trunk.conv1.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


def test_zero_init_residual_makes_the_last_norm_of_a_block_zero():
    assert not build_trunk("resnet18", zero_init_residual=True).layer1[0].bn2.weight.any()
    assert build_trunk("resnet18").layer1[0].bn2.weight.all()


@pytest.mark.parametrize(
    ("build", "choices"),
    [
        (lambda: build_trunk("vit_b_16"), "resnet50"),
        (lambda: build_trunk("resnet18", "tiny"), "imagenet, cifar"),
        (lambda: ResNetEncoder(build_trunk("resnet18"), "resnet18", "imagenet", layer="layer5"), "layer4, pool"),
        (lambda: ResNetEncoder(build_trunk("resnet18"), "resnet18", "imagenet", pooling="sum"), "avg, max"),
        (
            lambda: ResNetEncoder(build_trunk("resnet18"), "resnet18", "imagenet", pooling="cls"),
            "resnet18; expected one of avg, max",
        ),
    ],
)
def test_unknown_names_are_rejected_with_the_choices(build, choices):
    with pytest.raises(UsageError, match=choices):
        build()
