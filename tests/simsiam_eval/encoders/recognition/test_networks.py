"""The networks that are found in a checkpoint, and which of them is the encoder."""

import pytest
import torch
from torch import nn

from simsiam_eval.encoders.checkpoint import inspect_checkpoint
from simsiam_eval.encoders.recognition.architecture import trunk_shapes
from simsiam_eval.encoders.recognition.branches import NetworkNotChosen
from simsiam_eval.encoders.recognition.networks import read_contents
from simsiam_eval.encoders.recognition.parts import other_parts
from simsiam_eval.errors import DataError, UsageError
from tests.simsiam_eval.encoders.recognition.state_dicts import weights


def r18(prefix="", stem="imagenet"):
    return weights(trunk_shapes("resnet18", stem), prefix)


def chosen(content, branch=None):
    return read_contents(content, "my.pth").choose(branch, "my.pth")


CONTAINERS = (
    *("state_dict", "model", "model_state_dict", "net", "network", "weights", "params", "encoder", "backbone", "ema"),
    *("model_ema", "ema_state_dict", "module", "state", "checkpoint", "learner"),
)
PREFIXES = ("", "module.", "encoder.", "model.encoder.", "module.base_encoder.", "learner.net.", "a.b.c.d.", "0.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_trunk_is_found_once_in_any_container_and_under_any_prefix(container, prefix):
    for content in ({container: r18(prefix)}, {"outer": {container: r18(prefix)}, "epoch": 3}):
        contents = read_contents(content, "my.pth")
        assert [network.arch for network in contents.networks] == ["resnet18"]
        network = contents.choose(None, "my.pth")
        assert {entry.key: key for key, entry in network.trunk.entries.items()} == {
            prefix + key: key for key in trunk_shapes("resnet18", "imagenet")
        }


def test_names_of_containers():
    assert chosen({"epoch": 1, "state_dict": r18()}).trunk.where == "state_dict"
    assert chosen(r18()).trunk.where == "bare"
    assert chosen({"a": {"b": r18()}}).trunk.where == "a/b"


@pytest.mark.parametrize(
    ("names", "default", "branches"),
    [
        (("teacher", "student"), "teacher", {"student": "student", "teacher": "teacher"}),
        (("backbone", "backbone_momentum"), "backbone", {"momentum": "backbone_momentum", "online": "backbone"}),
        (("encoder_q", "encoder_k"), "encoder_q", {"momentum": "encoder_k", "online": "encoder_q"}),
        (("state_dict", "state_dict_ema"), "state_dict", {"ema": "state_dict_ema", "momentum": "state_dict_ema"}),
        (("online_encoder", "target_encoder"), "online_encoder", {"momentum": "target_encoder"}),
        (("net", "targetNet"), "net", {"momentum": "targetNet", "online": "net"}),
    ],
)
def test_the_network_that_its_authors_evaluate_is_the_default(names, default, branches):
    content = {name: r18() for name in names}
    assert chosen(content).name == default
    assert {branch: chosen(content, branch).name for branch in branches} == branches
    assert all(chosen(content, name).name == name for name in names)


def test_two_networks_of_the_same_rank_need_a_choice():
    content = {"state_dict": r18("left.") | weights(trunk_shapes("resnet34", "imagenet"), "right.")}
    with pytest.raises(NetworkNotChosen, match=r"2 encoders.*--branch: left \(resnet18\); right \(resnet34\)") as error:
        chosen(content)
    assert [network.name for network in error.value.networks] == ["left", "right"]
    assert chosen(content, "right").arch == "resnet34"
    with pytest.raises(UsageError, match="no network --branch middle; expected one of left"):
        chosen(content, "middle")


@pytest.mark.parametrize(
    "names", [("semantic_encoder", "texture_encoder"), ("remapper", "net2"), ("source_encoder", "target_encoder")]
)
def test_parts_of_words_and_domains_are_no_roles(names):
    content = {f"{name}.{key}": tensor for name in names for key, tensor in r18().items()}
    with pytest.raises(NetworkNotChosen, match="2 encoders"):
        chosen(content)
    assert [chosen(content, name).name for name in names] == list(names)


@pytest.mark.parametrize(
    ("arch", "stem"), [("resnet34", "imagenet"), ("resnet18", "cifar")], ids=["architecture", "stem"]
)
def test_networks_of_different_kinds_need_a_choice(arch, stem):
    content = {"student": r18(), "teacher": weights(trunk_shapes(arch, stem))}
    with pytest.raises(NetworkNotChosen, match=r"2 encoders .* choose one with --branch: "):
        chosen(content)
    assert chosen(content, "student").kind == ("resnet18", "imagenet", 3)


def test_copies_of_the_same_weights_are_one_network():
    backbone = r18()
    copies = {f"{prefix}{key}": tensor for prefix in ("backbone.", "encoder.0.") for key, tensor in backbone.items()}
    contents = read_contents(copies, "my.pth")
    assert [network.names for network in contents.networks] == [("backbone", "encoder.0")]
    assert contents.part_of is None
    skipped, _, _ = other_parts(contents, contents.choose(None, "my.pth"))
    assert set(skipped.values()) == {"a copy of the encoder"}


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"rpn.head.conv.weight": (256, 256, 3, 3)}, "a detector"),
        ({"decoder.blocks.0.conv1.0.weight": (64, 64, 3, 3)}, "a segmentation network"),
        ({"colorizer.0.weight": (64, 64, 3, 3)}, "a larger network"),
    ],
)
def test_a_part_of_a_larger_network_needs_a_choice(other, what):
    content = r18("backbone.") | weights(other)
    with pytest.raises(NetworkNotChosen, match=rf"^my.pth has {what}, .* --branch backbone\."):
        chosen(content)
    assert chosen(content, "backbone").arch == "resnet18"


def test_heads_are_no_larger_network():
    heads = {"projector.0.weight": (2048, 512), "neck.mlp2.0.weight": (128, 512, 1, 1), "n_averaged": ()}
    assert chosen(r18("backbone.") | weights(heads)).name == "backbone"


@pytest.mark.parametrize("prefix", ["", "module.base_encoder.", "backbone.", "model.visual."])
def test_vision_transformer(prefix):
    with pytest.raises(DataError, match=r"has a vision transformer and no ResNet: .* give it as timm:NAME@FILE"):
        chosen(weights({f"{prefix}patch_embed.proj.weight": (768, 3, 16, 16), f"{prefix}cls_token": (1, 1, 768)}))


def test_no_resnet():
    with pytest.raises(DataError, match=r"has no ResNet: its keys start with features, classifier\..*timm:NAME@FILE"):
        chosen(weights({"features.0.weight": (64, 3, 3, 3), "classifier.weight": (10, 64)}))


def test_an_incomplete_trunk():
    shapes = {key: shape for key, shape in trunk_shapes("resnet18", "imagenet").items() if "layer4" not in key}
    with pytest.raises(DataError, match=r"missing keys: \d+ of \d+ \(encoder.layer4.0.conv1.weight"):
        chosen({"state_dict": weights(shapes, "module.encoder.")})


def test_duplicate_key():
    with pytest.raises(DataError, match=r"twice, conv1.weight and module.conv1.weight"):
        chosen(r18() | r18("module."))


def test_quantized_weights():
    with pytest.raises(DataError, match="quantized weights"):
        chosen(weights({"layer1.0.conv1.weight": (64, 64, 3, 3), "layer1.0.conv1.zero_point": ()}))


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
        chosen(content)


def test_a_frozen_script_has_its_weights_in_its_code(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    torch.jit.save(torch.jit.freeze(torch.jit.script(module)), tmp_path / "frozen.pt")
    with pytest.raises(DataError, match=r"constants in its code.*before torch\.jit\.freeze: torch\.save\("):
        inspect_checkpoint(tmp_path / "frozen.pt")
