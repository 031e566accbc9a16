import pytest
import torch

from simsiam_eval.encoders.architectures import ARCHITECTURES
from simsiam_eval.encoders.families import FAMILIES, find_container, match_state_dict, recognize, some, trunk_shapes
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import STEMS

R18 = dict(trunk_shapes("resnet18", "imagenet"))
SIMSIAM_HEADS = {
    "encoder.fc.0.weight": (512, 512),
    "encoder.fc.1.weight": (512,),
    "encoder.fc.3.weight": (512, 512),
    "encoder.fc.4.weight": (512,),
    "encoder.fc.6.weight": (2048, 512),
    "encoder.fc.6.bias": (2048,),
    "encoder.fc.7.running_mean": (2048,),
    "predictor.0.weight": (256, 2048),
    "predictor.1.weight": (256,),
    "predictor.3.weight": (2048, 256),
}
MOCO_REST = {
    "encoder_q.fc.0.weight": (512, 512),
    "encoder_q.fc.2.weight": (128, 512),
    "queue": (128, 65536),
    "queue_ptr": (1,),
    **{f"encoder_k.{key}": shape for key, shape in R18.items()},
}
MOCO3_REST = {
    "base_encoder.fc.0.weight": (4096, 512),
    "base_encoder.fc.3.weight": (256, 4096),
    "predictor.0.weight": (4096, 256),
    "predictor.3.weight": (256, 4096),
    **{f"momentum_encoder.{key}": shape for key, shape in R18.items()},
}
CASES = {
    "simsiam": ("encoder.", SIMSIAM_HEADS, [512, 512, 512, 2048], [2048, 256, 2048]),
    "torchvision": ("", {"fc.weight": (1000, 512), "fc.bias": (1000,)}, None, None),
    "moco": ("encoder_q.", MOCO_REST, [512, 512, 128], None),
    "moco-v3": ("base_encoder.", MOCO3_REST, [512, 4096, 256], [256, 4096, 256]),
    "dino": ("backbone.", {"head.mlp.0.weight": (2048, 512), "head.last_layer.weight_g": (60000, 1)}, None, None),
}


def test_every_family_has_a_case():
    assert [family.name for family in FAMILIES] == list(CASES)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("name", CASES)
def test_family(name, wrapper):
    prefix, rest, projector, predictor = CASES[name]
    taken = {f"{wrapper}{prefix}{key}": key for key in R18}
    shapes = {key: R18[trunk_key] for key, trunk_key in taken.items()}
    left = {f"{wrapper}{key}": shape for key, shape in rest.items()}
    match = match_state_dict({**left, **shapes}, "file")
    assert (match.family.name, match.arch, match.stem) == (name, "resnet18", "imagenet")
    assert match.taken == taken
    assert match.left.keys() == left.keys()
    assert all(why and "not a part" not in why for why in match.left.values())
    assert (match.projector, match.predictor) == (projector, predictor)


def test_wrapper_inside_the_key():
    assert match_state_dict({f"encoder._orig_mod.{key}": s for key, s in R18.items()}, "f").family.name == "simsiam"


def test_backbone_alone():
    match = match_state_dict(R18, "file")
    assert match.family.name == "torchvision"
    assert match.left == {}


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_recognized(arch, stem):
    assert recognize(trunk_shapes(arch, stem), "file") == (arch, stem)


def test_only_the_batch_counts_may_be_missing():
    without = {key: shape for key, shape in R18.items() if not key.endswith("num_batches_tracked")}
    assert recognize(without, "file") == ("resnet18", "imagenet")
    for key in without:
        with pytest.raises(DataError, match=f"1 of 120 keys are missing .{key}.|unknown architecture"):
            recognize({other: shape for other, shape in without.items() if other != key}, "file")


@pytest.mark.parametrize(
    "keep",
    [
        lambda key: not key.startswith(("layer3", "layer4")),
        lambda key: key.startswith(("layer3", "layer4")),
        lambda key: "conv" in key,
        lambda key: list(R18).index(key) % 2 == 0,
    ],
)
def test_a_part_lists_what_is_missing(keep):
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
    with pytest.raises(DataError, match=r"unknown architecture \(bottleneck blocks \(2, 2, 2, 2\).*known are resnet18"):
        match_state_dict(r26, "file")


@pytest.mark.parametrize("prefix", ["", "module.base_encoder.", "backbone.", "model.visual."])
def test_vision_transformer(prefix):
    with pytest.raises(DataError, match="vision transformer, an unknown architecture: known are resnet18"):
        match_state_dict({f"{prefix}patch_embed.proj.weight": (768, 3, 16, 16), f"{prefix}cls_token": (1, 1, 768)}, "f")


def test_wrong_prefix_says_what_was_seen_and_what_is_known():
    with pytest.raises(DataError, match=r"start with net\.trunk\.; rename .* simsiam \(encoder\.\), torchvision"):
        match_state_dict({f"module.net.trunk.{key}": shape for key, shape in R18.items()}, "file")
    with pytest.raises(DataError, match=r"start with features\., classifier\.;"):
        match_state_dict({"features.0.weight": (64, 3, 3, 3), "classifier.weight": (10, 64)}, "file")


def test_the_same_key_twice():
    with pytest.raises(DataError, match="twice"):
        match_state_dict({**R18, **{f"module.{key}": shape for key, shape in R18.items()}}, "file")


def test_container():
    weights = {"conv1.weight": torch.zeros(1)}
    assert find_container({"epoch": 1, "state_dict": weights}, "f") == ("state_dict", weights, {})
    assert find_container({"model": weights}, "f")[0] == "model"
    assert find_container(weights, "f") == ("bare", weights, {})
    name, _, left = find_container({"student": weights, "teacher": weights, "optimizer": {}}, "f")
    assert name == "teacher"
    assert "preferred" in left["student"]
    assert find_container({"student": weights, "optimizer": {}}, "f")[0] == "student"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "empty state dict"),
        ({"state_dict": {}, "epoch": 3}, "empty state_dict"),
        ({"optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, "optimizer's state and no weights"),
        ({"state": {0: {"momentum_buffer": torch.zeros(1)}}, "param_groups": []}, "optimizer's state and no weights"),
        ({"epoch": 3, "loss": 0.1}, "no weights, only epoch, loss"),
    ],
)
def test_no_weights(content, says):
    with pytest.raises(DataError, match=says):
        find_container(content, "file")


def test_some():
    assert some("ab") == "a, b"
    assert some([]) == ""
