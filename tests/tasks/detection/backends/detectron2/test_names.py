"""The key table against torchvision's names and shapes, and its weights in detectron2's own detectors."""

import re

import pytest
import torch

from simsiam_eval.encoders.encoder import Encoder, build_trunk
from simsiam_eval.encoders.families import trunk_shapes
from simsiam_eval.errors import DataError, UsageError
from tasks.detection.backends.base import DetectorSpec
from tasks.detection.backends.detectron2.names import (
    RULES,
    architecture_values,
    detectron2_keys,
    detectron2_weights,
    largest_difference,
    refuse_difference,
)

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d")
NAME = re.compile(
    r"(backbone\.(bottom_up\.)?(stem\.conv1|res[2-5]\.\d+\.(conv[123]|shortcut))|roi_heads\.res5\.\d+\.(conv[123]|shortcut))"
    r"\.(weight|norm\.(weight|bias|running_mean|running_var|num_batches_tracked))"
)


def spec(heads, masks=False):
    return DetectorSpec(heads, masks, ("a", "b"), (96,), 96, 128, (100, 100), (50, 50), 16, 2)


@pytest.fixture
def encoder():
    """encoder(arch): random weights and statistics, so that a swap of two would show."""

    def made(arch, stem="imagenet"):
        torch.manual_seed(0)
        trunk = build_trunk(arch, stem)
        for module in trunk.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        return Encoder(trunk, arch, stem)

    return made


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
def test_no_rule_can_be_missing(encoder, broken):
    with pytest.raises(DataError, match="nothing is converted"):
        detectron2_weights(encoder("resnet18"), "c4", RULES[:broken] + RULES[broken + 1 :])


def test_two_keys_that_become_one_are_refused(encoder):
    crossed = (*RULES[:2], (RULES[2][0], "res{stage}.{block}.conv1.weight"), *RULES[3:])
    with pytest.raises(DataError, match="become one"):
        detectron2_weights(encoder("resnet18"), "c4", crossed)


def test_an_empty_or_partial_encoder_is_refused(encoder):
    with pytest.raises(DataError, match="empty set"):
        detectron2_keys({}, "c4")
    part = encoder("resnet18")
    del part.trunk.layer3
    with pytest.raises(DataError, match="not a whole resnet18"):
        detectron2_weights(part, "c4")
    with pytest.raises(UsageError, match="3x3 one of CIFAR"):
        detectron2_weights(encoder("resnet18", "cifar"), "c4")


def test_depth_and_groups():
    assert {arch: architecture_values(arch)["DEPTH"] for arch in ARCHS} == {
        "resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnext50_32x4d": 50,
    }  # fmt: skip
    assert architecture_values("resnext50_32x4d")["NUM_GROUPS"] == 32


@pytest.mark.parametrize("largest", [2e-4, float("nan"), float("inf")])
def test_a_difference_is_refused(largest):
    refuse_difference(1e-5)
    with pytest.raises(DataError, match="STRIDE_IN_1X1"):
        refuse_difference(largest)


@pytest.mark.detectron2
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("heads", ["c4", "fpn"])
def test_detectron2_computes_the_same(encoder, arch, heads):
    from tasks.detection.backends.detectron2.model import fresh_model

    made = encoder(arch)
    weights = detectron2_weights(made, heads)
    assert largest_difference(made, weights, fresh_model(arch, spec(heads)), heads) <= 1e-4
    crossed = dict(weights)
    trunk = "backbone." if heads == "c4" else "backbone.bottom_up."
    a, b = f"{trunk}res2.0.conv1.norm.weight", f"{trunk}res2.0.conv1.norm.running_var"
    crossed[a], crossed[b] = crossed[b], crossed[a]
    assert largest_difference(made, crossed, fresh_model(arch, spec(heads)), heads) > 1e-4


@pytest.mark.detectron2
def test_stride_in_the_wrong_convolution_is_caught(encoder):
    from tasks.detection.backends.detectron2.model import fresh_model

    made = encoder("resnet50")
    model = fresh_model("resnet50", spec("c4"), MODEL__RESNETS__STRIDE_IN_1X1=True)
    with pytest.raises(DataError, match="STRIDE_IN_1X1"):
        refuse_difference(largest_difference(made, detectron2_weights(made, "c4"), model, "c4"))


@pytest.mark.detectron2
def test_a_detector_of_another_architecture_is_refused(encoder):
    from tasks.detection.backends.detectron2.model import fresh_model

    made = encoder("resnet18")
    with pytest.raises(DataError, match="do not fit"):
        largest_difference(made, detectron2_weights(made, "c4"), fresh_model("resnet34", spec("c4")), "c4")
