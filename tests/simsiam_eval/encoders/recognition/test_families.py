"""The rules of every checkpoint family."""

import pytest
import torch

from simsiam_eval.encoders.recognition.families import FAMILIES
from simsiam_eval.encoders.recognition.networks import read_contents
from simsiam_eval.encoders.recognition.parts import other_parts
from tests.simsiam_eval.encoders.recognition.state_dicts import R18, weights


def as_sequential(shapes):
    index = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {index[key.split(".")[0]] + key[key.index(".") :]: shape for key, shape in shapes.items()}


def as_detectron2(shapes):
    def name(key):
        if key.startswith(("conv1", "bn1")):
            return key.replace("conv1", "stem.conv1").replace("bn1", "stem.conv1.norm")
        stage, block, module, *rest = key.split(".")
        new = "shortcut" if module == "downsample" else module.replace("bn", "conv")
        norm = "norm." if module.startswith("bn") or rest[0] == "1" else ""
        return f"res{int(stage[-1]) + 1}.{block}.{new}.{norm}{rest[-1]}"

    return {name(key): shape for key, shape in shapes.items()}


def as_caffe2(shapes):
    def name(key):
        stem = {"conv1.weight": "conv1_w", "bn1.weight": "res_conv1_bn_s", "bn1.bias": "res_conv1_bn_b"}
        if key in stem:
            return stem[key]
        stage, block, module, *rest = key.split(".")
        new = "branch1" if module == "downsample" else f"branch2{'abc'[int(module[-1]) - 1]}"
        is_norm = module.startswith("bn") or rest[0] == "1"
        return f"res{int(stage[-1]) + 1}_{block}_{new}_" + (f"bn_{rest[-1][0].replace('w', 's')}" if is_norm else "w")

    return {name(key): shape for key, shape in shapes.items() if key.endswith((".weight", ".bias"))}


def as_transformers(shapes):
    def name(key):
        if key.startswith(("conv1", "bn1")):
            return key.replace("conv1", "embedder.embedder.convolution").replace(
                "bn1", "embedder.embedder.normalization"
            )
        stage, block, module, *rest = key.split(".")
        kind = "normalization" if module.startswith("bn") or rest[0] == "1" else "convolution"
        new = "shortcut" if module == "downsample" else f"layer.{int(module[-1]) - 1}"
        return f"encoder.stages.{int(stage[-1]) - 1}.layers.{block}.{new}.{kind}.{rest[-1]}"

    return {name(key): shape for key, shape in shapes.items()}


def with_shortcut(shapes):
    return {key.replace("downsample", "shortcut"): shape for key, shape in shapes.items()}


def with_stem(shapes):
    return {f"stem.{key}" if key.startswith(("conv1", "bn1")) else key: shape for key, shape in shapes.items()}


def linear(*keys):
    return {f"{key}.weight": (256, 512) for key in keys}


# (family, prefix of the trunk, how its keys are named, other keys, projector, predictor)
CASES = [
    ("simsiam", "encoder.", dict, {"encoder.fc.0.weight": (512, 512), "encoder.fc.3.weight": (2048, 512),
     "predictor.0.weight": (256, 2048), "predictor.3.weight": (2048, 256)}, [512, 512, 2048], [2048, 256, 2048]),
    ("moco", "encoder_q.", dict, linear("encoder_q.fc.2") | {"queue": (128, 9)}, [512, 256], None),
    ("moco-v3", "base_encoder.", dict, linear("base_encoder.fc.0", "predictor.0"), [512, 256], [512, 256]),
    ("densecl", "encoder_q.0.", dict, linear("encoder_q.1.mlp.0") | {"queue2": (128, 9)}, [512, 256], None),
    ("mmselfsup", "encoder_q.0.", dict, linear("encoder_q.1.mlp.0") | {"queue": (128, 9)}, [512, 256], None),
    ("lightning-bolts", "encoder_q.", dict, linear("encoder_q.fc") | {"queue.representations": (128, 9)}, [512, 256], None),
    ("lightly-train", "embedding_model.wrapped_model._features.", dict, linear("projection_head.layers.0"), [512, 256],
     None),
    ("solo-learn", "backbone.", dict, linear("classifier", "projector.0", "predictor.0"), [512, 256], [512, 256]),
    ("patrickhua", "backbone.", dict, linear("projector.layer1.0", "encoder.1.layer1.0", "predictor.layer1.0"),
     [512, 256], [512, 256]),
    ("patrickhua", "backbone.", with_shortcut, linear("projector.layer1.0", "encoder.1.layer1.0"), [512, 256], None),
    ("lightly", "backbone.", as_sequential, linear("projection_head.layers.0", "prediction_head.layers.0"), [512, 256],
     [512, 256]),
    ("vissl", "trunk._feature_blocks.", dict, {}, None, None),
    ("dino", "backbone.", dict, linear("head.mlp.0") | {"head.last_layer.weight_g": (60000, 1)}, None, None),
    ("barlow-twins", "backbone.", dict, linear("projector.0") | {"bn.running_mean": (256,)}, [512, 256], None),
    ("vicreg", "backbone.", dict, linear("projector.0"), [512, 256], None),
    ("byol", "online_encoder.net.", dict, linear("online_encoder.projector.0", "online_predictor.0"), [512, 256],
     [512, 256]),
    ("lightning-bolts", "online_network.encoder.", dict,
     linear("online_network.projector.model.0", "predictor.model.0"), [512, 256], [512, 256]),
    ("lightning-bolts", "encoder.", dict, linear("projection.model.0"), [512, 256], None),
    ("byol", "online_network.", dict, {}, None, None),
    ("mmselfsup", "online_net.0.", dict, linear("online_net.1.fc0"), None, None),
    ("simclr", "backbone.", dict, linear("backbone.fc.0"), [512, 256], None),
    ("simclr", "encoder.", dict, {"projector.0.weight": (512, 512), "projector.2.weight": (64, 512)}, [512, 512, 64], None),
    ("transformers", "resnet.", as_transformers, {"classifier.1.weight": (10, 512)}, None, None),
    ("transformers-timm", "timm_model.", dict, {"timm_model.fc.weight": (10, 512)}, None, None),
    ("detectron2", "", as_detectron2, {}, None, None),
    ("swav", "", dict, linear("projection_head.0", "prototypes"), [512, 256], None),
    ("pytorch-cifar", "", with_shortcut, {"linear.weight": (10, 512)}, None, None),
    ("lightly", "", with_shortcut, {}, None, None),
    ("lightly", "", as_sequential, {}, None, None),
    ("torchvision", "", dict, {"fc.weight": (1000, 512), "fc.bias": (1000,)}, None, None),
    ("other", "learner.", dict, {}, None, None),
]  # fmt: skip
# Parts of larger networks: (family, prefix of the trunk, how its keys are named, other keys, branch).
LARGER = [
    ("segmentation-models", "encoder.", dict, {"decoder.0.weight": (9, 9, 3, 3), "segmentation_head.0.bias": (1,)},
     "encoder"),
    ("torchvision-detection", "backbone.body.", dict, {"backbone.fpn.layer_blocks.0.0.weight": (9, 9, 3, 3)}, "backbone"),
    ("torchvision-segmentation", "backbone.", dict, {"classifier.0.weight": (9, 9, 3, 3)}, "backbone"),
    ("maskrcnn-benchmark", "module.backbone.body.", with_stem, {"module.rpn.head.conv.weight": (9, 9, 3, 3)}, "backbone"),
]  # fmt: skip
_OPENMMLAB = linear("neck.fc0", "head.predictor.fc0")
# Told by other entries of the file: (family, container, prefix of the trunk, other keys, entries).
BY_ENTRIES = [
    ("mmpretrain", "state_dict", "backbone.", _OPENMMLAB, {"message_hub": {}}),
    ("mmpretrain", "state_dict", "backbone.", _OPENMMLAB, {"meta": {"mmpretrain_version": "1.2.0"}}),
    ("mmselfsup", "state_dict", "backbone.", _OPENMMLAB, {"meta": {"mmselfsup_version": "0.11.0"}}),
    ("timm", "state_dict", "", {}, {"metric": 70.1}),
    ("cmc", "model", "encoder.module.", {}, {"opt": {}, "contrast": {"memory": torch.ones(2)}}),
    ("reza-safdari", "state_dict", "backbone.", linear("predictor.layer1.0", "projector.layer1.0", "encoder.1.layer1.0"),
     {"top1_acc": 91.9}),
]  # fmt: skip


def test_every_family_has_a_case():
    tested = {name for name, *_ in [*CASES, *LARGER, *BY_ENTRIES]} | {"caffe2"}
    assert {family.name for family in FAMILIES} == tested


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize(("name", "prefix", "named", "others", "projector", "predictor"), CASES)
def test_family(name, prefix, named, others, projector, predictor, wrapper):
    keys = dict(zip(named(R18), R18, strict=True))
    content = weights(named(R18), wrapper + prefix) | weights(others, wrapper)
    contents = read_contents(content, "file")
    network = contents.choose(None, "file")
    skipped, found_projector, found_predictor = other_parts(contents, network)
    assert (network.family.name, network.arch, network.stem) == (name, "resnet18", "imagenet")
    assert {entry.key: key for key, entry in network.trunk.entries.items()} == {
        f"{wrapper}{prefix}{key}": trunk_key for key, trunk_key in keys.items()
    }
    assert skipped.keys() == {wrapper + key for key in others}
    assert (found_projector, found_predictor) == (projector, predictor)


@pytest.mark.parametrize(("name", "prefix", "named", "others", "branch"), LARGER)
def test_family_of_a_larger_network(name, prefix, named, others, branch):
    contents = read_contents({"model": weights(named(R18), prefix) | weights(others)}, "file")
    assert contents.part_of is not None
    assert contents.choose(branch, "file").family.name == name


@pytest.mark.parametrize(("name", "container", "prefix", "others", "entries"), BY_ENTRIES)
def test_family_that_other_entries_tell(name, container, prefix, others, entries):
    contents = read_contents({container: weights(R18, prefix) | weights(others)} | entries, "f")
    network = contents.choose(None, "f")
    assert network.family.name == name
    if others:
        assert other_parts(contents, network)[1:] == ([512, 256], [512, 256])


@pytest.mark.parametrize("average", ["encoder_k", "target_net", "momentum_encoder"])
@pytest.mark.parametrize("entries", [{}, {"message_hub": {}}])
def test_averages_of_openmmlab(average, entries):
    both = weights(R18, "backbone.") | weights(_OPENMMLAB) | weights(R18, f"{average}.module.0.")
    content = {"state_dict": both | {f"{average}.steps": torch.zeros(())}} | entries
    for branch in ("backbone", average):
        assert read_contents(content, "f").choose(branch, "f").family.name == "mmpretrain"


def test_family_that_the_config_tells():
    hub = read_contents(weights(R18), "f", {"architecture": "resnet18", "pretrained_cfg": {}})
    assert hub.choose(None, "f").family.name == "timm"


def test_an_encoder_without_its_heads_is_no_simsiam():
    assert read_contents(weights(R18, "encoder."), "f").choose(None, "f").family.name == "other"


def test_caffe2_has_no_statistics_and_takes_no_bias_of_convolutions():
    others = {"conv1_b": (64,), "fc1000_w": (1000, 512), "res2_0_branch2a_bn_s_momentum": (64,)}
    contents = read_contents({"blobs": weights(as_caffe2(R18)) | weights(others)}, "f")
    network = contents.choose(None, "f")
    assert (network.family.name, network.arch, contents.part_of) == ("caffe2", "resnet18", None)
    assert other_parts(contents, network)[0].keys() == others.keys()
    assert set(network.trunk.shapes) | {key for key in R18 if key.endswith("num_batches_tracked")} == set(R18)
    assert torch.equal(network.trunk.implied["layer1.0.bn1.running_var"], torch.ones(64))


def test_a_prefix_names_a_network_that_stands_twice():
    shared = weights(R18)
    learner = {f"{prefix}{key}": value for prefix in ("net.", "online_encoder.net.") for key, value in shared.items()}
    network = read_contents(learner, "f").choose(None, "f")
    assert (network.name, network.family.name) == ("online_encoder", "byol")
