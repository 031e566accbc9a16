"""Family, architecture and stem from keys and shapes, and the messages where they are not recognized."""

import pytest
import torch

from simsiam_eval.encoders.architectures import ARCHITECTURES
from simsiam_eval.encoders.recognition import find_container, match_state_dict, recognize_trunk, trunk_shapes
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import STEMS

R18 = dict(trunk_shapes("resnet18", "imagenet"))


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_recognized(arch, stem):
    assert recognize_trunk(trunk_shapes(arch, stem), "file") == (arch, stem)


def test_only_num_batches_tracked_may_be_missing():
    without = {key: shape for key, shape in R18.items() if not key.endswith("num_batches_tracked")}
    assert recognize_trunk(without, "file") == ("resnet18", "imagenet")
    for key in without:
        with pytest.raises(DataError, match=f"1 of 120 keys are missing .{key}.|unknown architecture"):
            recognize_trunk({other: shape for other, shape in without.items() if other != key}, "file")


@pytest.mark.parametrize(
    "keep",
    [
        lambda key: not key.startswith(("layer3", "layer4")),
        lambda key: key.startswith(("layer3", "layer4")),
        lambda key: "conv" in key,
        lambda key: list(R18).index(key) % 2 == 0,
    ],
)
def test_missing_keys_are_listed(keep):
    shapes = {f"module.encoder.{key}": shape for key, shape in R18.items() if keep(key)}
    with pytest.raises(DataError, match=r"^my.pth .*keys are missing \(encoder\..* and \d+ more\)"):
        match_state_dict(shapes, "my.pth")


def test_extra_trunk_keys():
    with pytest.raises(DataError, match=r"2 keys are unexpected \(encoder.layer1.0.se.weight, encoder.layer1.0.se.b"):
        match_state_dict(
            {
                **{f"encoder.{key}": s for key, s in R18.items()},
                "encoder.layer1.0.se.weight": (64, 64),
                "encoder.layer1.0.se.bias": (64,),
            },
            "file",
        )


@pytest.mark.parametrize(
    ("key", "shape"),
    [("layer2.0.conv1.weight", (128, 64, 1, 1)), ("conv1.weight", (64, 1, 7, 7)), ("layer4.1.bn2.running_var", (1,))],
)
def test_shape_mismatch(key, shape):
    with pytest.raises(DataError, match=rf"1 shapes do not match \({key} is .{str(shape)[1:-1]}., not"):
        match_state_dict({**R18, key: shape}, "file")


def test_unknown_resnet():
    r26 = {key: s for key, s in trunk_shapes("resnet50", "imagenet").items() if key.split(".")[1] not in "2345"}
    with pytest.raises(
        DataError, match=r"unknown architecture \(bottleneck blocks \(2, 2, 2, 2\).*Supported: resnet18"
    ):
        match_state_dict(r26, "file")


@pytest.mark.parametrize("prefix", ["", "module.base_encoder.", "backbone.", "model.visual."])
def test_vision_transformer(prefix):
    with pytest.raises(DataError, match=r"vision transformer, an unknown architecture\. Supported: resnet18"):
        match_state_dict({f"{prefix}patch_embed.proj.weight": (768, 3, 16, 16), f"{prefix}cls_token": (1, 1, 768)}, "f")


def test_wrong_prefix_lists_the_keys_and_the_known_families():
    with pytest.raises(DataError, match=r"start with net\.trunk\.\. Rename .* simsiam \(encoder\.\), torchvision"):
        match_state_dict({f"module.net.trunk.{key}": shape for key, shape in R18.items()}, "file")
    with pytest.raises(DataError, match=r"start with features\., classifier\.\."):
        match_state_dict({"features.0.weight": (64, 3, 3, 3), "classifier.weight": (10, 64)}, "file")


def test_duplicate_key():
    with pytest.raises(DataError, match="twice"):
        match_state_dict({**R18, **{f"module.{key}": shape for key, shape in R18.items()}}, "file")


def test_container():
    weights = {"conv1.weight": torch.zeros(1)}
    assert find_container({"epoch": 1, "state_dict": weights}, "f") == ("state_dict", weights, {})
    assert find_container({"model": weights}, "f")[0] == "model"
    assert find_container(weights, "f") == ("bare", weights, {})
    name, _, unused = find_container({"student": weights, "teacher": weights, "optimizer": {}}, "f")
    assert name == "teacher"
    assert "preferred" in unused["student"]
    assert find_container({"student": weights, "optimizer": {}}, "f")[0] == "student"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "empty state dict"),
        ({"state_dict": {}, "epoch": 3}, "empty state_dict"),
        ({"optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, "optimizer's state and no weights"),
        ({"state": {0: {"momentum_buffer": torch.zeros(1)}}, "param_groups": []}, "optimizer's state and no weights"),
        ({"epoch": 3, "loss": 0.1}, "no weights, only epoch, loss"),
    ],
)
def test_no_weights(content, message):
    with pytest.raises(DataError, match=message):
        find_container(content, "file")
