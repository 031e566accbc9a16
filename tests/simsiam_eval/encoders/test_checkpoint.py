"""Encoders that are loaded from checkpoints, and checkpoints that are written."""

import argparse
import json
import os
import pathlib

import pytest
import safetensors.torch
import torch

from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.encoders.checkpoint_writer import write_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import DataError, UsageError


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    trunk = build_trunk("resnet18", "cifar")
    for module in trunk.modules():  # unlike those of a new model, so that a lost one would show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    return trunk.eval()


@pytest.fixture
def state(trunk):
    return trunk.state_dict()


def prefixed(state, prefix):
    return {prefix + key: tensor for key, tensor in state.items()}


def saved(tmp_path, content, **options):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize(
    ("family", "prefix", "legacy"), [("torchvision", "", True), ("moco", "module.encoder_q.", False)]
)
def test_loaded_encoder_has_the_features_and_hash_of_the_trunk(tmp_path, trunk, state, family, prefix, legacy):
    content = {"state_dict": prefixed(state, prefix), "epoch": 5}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=not legacy)
    encoder, report = load_encoder(path)
    assert (report.family, report.container, report.arch, report.stem) == (family, "state_dict", "resnet18", "cifar")
    assert (report.epoch, report.feature_width, report.metadata) == (5, 512, None)
    assert report.weights_sha256 == weights_sha256(state, {}) == weights_sha256(encoder.trunk.state_dict(), {})
    assert not encoder.training
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(encoder(images), trunk(images))
    loaded = encoder.trunk.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert inspect_checkpoint(path) == report


def test_safetensors(tmp_path, state):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    report = inspect_checkpoint(path)
    assert (report.family, report.container, report.weights_sha256) == (
        "torchvision",
        "bare",
        weights_sha256(state, {}),
    )
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match="damaged safetensors"):
        inspect_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_teacher_is_preferred_and_namespace_is_allowed(tmp_path, state, legacy):
    student = prefixed({key: tensor + 1 for key, tensor in state.items()}, "module.backbone.")
    teacher = prefixed(state, "backbone.") | {"head.mlp.0.weight": torch.zeros(3, 512)}
    content = {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="resnet18"), "epoch": 1}
    report = inspect_checkpoint(saved(tmp_path, content, _use_new_zipfile_serialization=not legacy))
    assert (report.family, report.container) == ("dino", "teacher")
    assert report.weights_sha256 == weights_sha256(state, {})
    assert report.skipped["student"] == "another network: --branch student.backbone"
    assert inspect_checkpoint(EncoderChoice(report.path, branch="student")).weights_sha256 != report.weights_sha256
    assert "head.mlp.0.weight" in report.skipped


@pytest.mark.parametrize("legacy", [False, True])
def test_a_loaded_encoder_does_not_change_with_its_file(tmp_path, state, legacy):
    path = saved(tmp_path, state, _use_new_zipfile_serialization=not legacy)
    encoder, _ = load_encoder(path)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(encoder.trunk.conv1.weight, state["conv1.weight"])


def test_loading_keeps_the_random_state(tmp_path, state):
    path = saved(tmp_path, state)
    before = torch.random.get_rng_state()
    load_encoder(path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_half_precision_is_loaded_as_float32_and_missing_batch_counts_are_zero(tmp_path, state):
    half = {key: tensor.half() for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    encoder, _ = load_encoder(saved(tmp_path, half))
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.trunk.bn1.num_batches_tracked == 0
    assert not any(tensor.is_meta for tensor in encoder.state_dict().values())


def test_layer_and_pooling(tmp_path, state):
    path = saved(tmp_path, state)
    encoder, _ = load_encoder(path, layer="layer2", pooling="max")
    assert encoder(torch.zeros(1, 3, 8, 8)).shape == (1, 128)
    with pytest.raises(UsageError, match="layer1"):
        load_encoder(path, layer="head")


def test_hash_depends_only_on_weights(state):
    expected = weights_sha256(state, {})
    same = dict(reversed(state.items())) | {"fc.weight": torch.zeros(2), "bn1.num_batches_tracked": torch.tensor(9)}
    same["conv1.weight"] = state["conv1.weight"].double().to(memory_format=torch.channels_last)
    assert weights_sha256(same, {}) == expected
    changed = state["layer4.1.bn2.running_var"].clone()
    changed[-1] += 1e-6
    assert weights_sha256({**state, "layer4.1.bn2.running_var": changed}, {}) != expected


class TestWrite:
    @pytest.fixture
    def arguments(self, state):
        model = prefixed(state, "module.encoder.") | {
            "module.encoder.fc.0.weight": torch.zeros(2048, 512),
            "module.encoder.fc.3.weight": torch.zeros(2048, 2048),
            "module.predictor.0.weight": torch.zeros(512, 2048),
            "module.predictor.3.weight": torch.zeros(2048, 512),
        }
        return {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": model,
            "metadata": {"recipe": {"lr": 0.05}, "seed": (1, None)},
            "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1).state_dict(),
        }

    def test_file_is_read_back(self, tmp_path, state, arguments):
        path = tmp_path / "checkpoint_0002.pth.tar"
        write_checkpoint(path, **arguments)
        content = torch.load(path, weights_only=True)
        assert list(content) == ["epoch", "arch", "state_dict", "optimizer", "simsiam_eval"]
        assert list(content["state_dict"]) == list(arguments["state_dict"])
        assert content["optimizer"] == arguments["optimizer"]
        report = inspect_checkpoint(path)
        assert (report.family, report.epoch, report.metadata) == ("simsiam", 3, arguments["metadata"])
        assert (report.projector, report.predictor) == ([512, 2048, 2048], [2048, 512, 2048])
        assert report.weights_sha256 == weights_sha256(state, {})
        assert os.listdir(tmp_path) == [path.name]

    def test_report_is_json(self, tmp_path, arguments):
        path = tmp_path / "checkpoint.pth.tar"
        write_checkpoint(path, **arguments | {"metadata": {"random": torch.zeros(3), "seeds": (1, 2)}})
        record = json.loads(json.dumps(inspect_checkpoint(path).to_dict()))
        assert record["path"] == str(path)
        assert record["metadata"] == {"random": "tensor [3] torch.float32", "seeds": [1, 2]}

    def test_rejects_other_keys(self, tmp_path, arguments, state):
        with pytest.raises(ValueError, match=r"conv1\.weight"):
            write_checkpoint(tmp_path / "a", **arguments | {"state_dict": state})

    def test_rejects_what_could_not_be_read_back(self, tmp_path, arguments):
        with pytest.raises(TypeError, match="pathlib"):
            write_checkpoint(tmp_path / "a", **arguments | {"metadata": {"path": pathlib.Path("x")}})
        assert os.listdir(tmp_path) == []

    def test_a_missing_folder_is_made_and_a_file_in_its_place_rejected(self, tmp_path, arguments):
        write_checkpoint(tmp_path / "new" / "a", **arguments)
        assert (tmp_path / "new" / "a").is_file()
        with pytest.raises(DataError):
            write_checkpoint(tmp_path / "new" / "a" / "b", **arguments)


WRONG = {
    "weights that are not finite": ({"layer2.1.bn1.weight": torch.full((128,), float("nan"))}, "NaN or infinite"),
    "infinite weights": ({"layer2.1.bn1.weight": torch.full((128,), float("-inf"))}, "NaN or infinite"),
    "quantized weights": ({"conv1.weight": torch.zeros(64, 3, 3, 3, dtype=torch.int8)}, "as torch.int8"),
    "weights without values": ({"conv1.weight": torch.zeros(64, 3, 3, 3, device="meta")}, "without its values"),
    "negative variances": ({"bn1.running_var": torch.full((64,), -1.0)}, "negative variances"),
    "another shape": (
        {"layer3.0.conv1.weight": torch.zeros(256, 128, 1, 1)},
        "is (256, 128, 1, 1), not (256, 128, 3, 3)",
    ),
    "no tensor": ({"conv1.weight": "none"}, "missing"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_weights(tmp_path, state, wrong):
    """The message is one line, and names the file and the key."""
    changed, reason = WRONG[wrong]
    path = saved(tmp_path, {"state_dict": prefixed(state | changed, "module.encoder.")})
    with pytest.raises(DataError) as error:
        inspect_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert reason in message
    assert next(iter(changed)) in message


def test_entries_that_are_no_weights(tmp_path, state):
    assert inspect_checkpoint(saved(tmp_path, state | {"version": 3})).skipped == {}


def test_weights_nested_too_deeply(tmp_path, state):
    nested = {"state_dict": state}
    for _ in range(9):
        nested = {"state_dict": nested}
    with pytest.raises(DataError, match="no weights in state_dict, only state_dict"):
        inspect_checkpoint(saved(tmp_path, nested))
