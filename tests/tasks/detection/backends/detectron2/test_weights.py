"""The key rules against torchvision's names and shapes, and converted weights in detectron2's own detectors."""

import re

import pytest
import torch

from simsiam_eval.encoders.architectures import TRUNK, TrunkVariant
from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.encoders.recognition.architecture import trunk_shapes
from simsiam_eval.errors import DataError
from tasks.detection.backends.detectron2.comparison import check_difference, largest_difference
from tasks.detection.backends.detectron2.weights import RULES, detectron2_keys, detectron2_weights
from tasks.detection.detector_spec import DetectorSpec

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d")
NAME = re.compile(
    r"(backbone\.(bottom_up\.)?(stem\.conv1|res[2-5]\.\d+\.(conv[123]|shortcut))|roi_heads\.res5\.\d+\.(conv[123]|shortcut))"
    r"\.(weight|norm\.(weight|bias|running_mean|running_var|num_batches_tracked))"
)


def spec(heads, masks=False):
    return DetectorSpec(heads, masks, ("a", "b"), (96,), 96, 128, (100, 100), (50, 50), 16, 2)


@pytest.fixture
def encoder():
    """encoder(arch) -> one with random weights and BN statistics, so that swapped keys change its output."""

    def build(arch, stem="imagenet", variant=TRUNK):
        torch.manual_seed(0)
        trunk = build_trunk(arch, stem, variant=variant)
        for module in trunk.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        return ResNetEncoder(trunk, arch, stem, variant=variant)

    return build


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("heads", ["c4", "fpn"])
def test_every_key_has_one_name(arch, heads):
    shapes = trunk_shapes(arch, "imagenet")
    names = detectron2_keys(shapes, heads)
    assert list(names) == list(shapes)
    assert len(set(names.values())) == len(shapes)
    for key, name in names.items():
        assert NAME.fullmatch(name), name
        assert (len(shapes[key]) == 4) == (not re.search(r"\.norm\.", name))
        if key.startswith("layer"):
            assert name.split("res")[-1][0] == str(int(key[5]) + 1)
        # A convolution and its BN stay together: conv2 and bn2, downsample.0 and downsample.1.
        assert ("shortcut" in name) == ("downsample" in key)
    assert all(name.startswith("roi_heads.") for key, name in names.items() if key.startswith("layer4")) == (
        heads == "c4"
    )


@pytest.mark.parametrize("broken", range(len(RULES)))
def test_every_rule_is_needed(encoder, broken):
    with pytest.raises(DataError, match="nothing was converted"):
        detectron2_weights(encoder("resnet18"), "c4", RULES[:broken] + RULES[broken + 1 :])


def test_two_keys_with_the_same_name_are_rejected(encoder):
    crossed = (*RULES[:2], (RULES[2][0], "res{stage}.{block}.conv1.weight"), *RULES[3:])
    with pytest.raises(DataError, match="would get the same name"):
        detectron2_weights(encoder("resnet18"), "c4", crossed)


def test_empty_or_partial_encoder_is_rejected(encoder):
    with pytest.raises(DataError, match="empty set"):
        detectron2_keys({}, "c4")
    part = encoder("resnet18")
    del part.trunk.layer3
    with pytest.raises(DataError, match="not a complete resnet18"):
        detectron2_weights(part, "c4")


@pytest.mark.parametrize("largest", [2e-4, float("nan"), float("inf")])
def test_large_difference_is_rejected(largest):
    check_difference(1e-5)
    with pytest.raises(DataError, match="STRIDE_IN_1X1"):
        check_difference(largest)


@pytest.mark.detectron2
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("heads", ["c4", "fpn"])
def test_detectron2_computes_the_same(encoder, arch, heads):
    from tasks.detection.backends.detectron2.model import random_model

    torchvision_encoder = encoder(arch)
    weights = detectron2_weights(torchvision_encoder, heads)
    assert largest_difference(torchvision_encoder, weights, random_model(arch, spec(heads)), heads) <= 1e-4
    crossed = dict(weights)
    trunk = "backbone." if heads == "c4" else "backbone.bottom_up."
    a, b = f"{trunk}res2.0.conv1.norm.weight", f"{trunk}res2.0.conv1.norm.running_var"
    crossed[a], crossed[b] = crossed[b], crossed[a]
    assert largest_difference(torchvision_encoder, crossed, random_model(arch, spec(heads)), heads) > 1e-4


@pytest.mark.detectron2
def test_stride_in_the_wrong_convolution_is_detected(encoder):
    from tasks.detection.backends.detectron2.model import random_model

    torchvision_encoder = encoder("resnet50")
    model = random_model("resnet50", spec("c4"), {"MODEL.RESNETS.STRIDE_IN_1X1": True})
    with pytest.raises(DataError, match="STRIDE_IN_1X1"):
        check_difference(
            largest_difference(torchvision_encoder, detectron2_weights(torchvision_encoder, "c4"), model, "c4")
        )


@pytest.mark.detectron2
@pytest.mark.parametrize("heads", ["c4", "fpn"])
def test_strides_in_the_1x1_convolution_are_detectron2s_option(encoder, heads):
    from tasks.detection.backends.detectron2.model import random_model

    caffe = encoder("resnet50", variant=TrunkVariant(stride_in_1x1=True))
    model = random_model("resnet50", spec(heads), {"MODEL.RESNETS.STRIDE_IN_1X1": True})
    assert largest_difference(caffe, detectron2_weights(caffe, heads), model, heads) <= 1e-4


@pytest.mark.detectron2
def test_detector_of_another_architecture_is_rejected(encoder):
    from tasks.detection.backends.detectron2.model import random_model

    torchvision_encoder = encoder("resnet18")
    with pytest.raises(DataError, match="do not fit"):
        largest_difference(
            torchvision_encoder,
            detectron2_weights(torchvision_encoder, "c4"),
            random_model("resnet34", spec("c4")),
            "c4",
        )
