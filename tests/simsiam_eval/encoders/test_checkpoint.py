import argparse
import io
import json
import os
import pathlib
import pickle
import zipfile

import pytest
import safetensors.torch
import torch

from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import read_checkpoint
from simsiam_eval.encoders.checkpoint_writer import write_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import DataError, UsageError

FAMILY_PREFIX = {
    "other": "module.encoder.",
    "torchvision": "",
    "moco": "module.encoder_q.",
    "moco-v3": "module.base_encoder.",
    "byol": "module.online_network.",
}


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


def rejected(path, *parts):
    """The message that `inspect_checkpoint` rejects `path` with: one line, which names the file and contains all parts."""
    with pytest.raises(DataError) as error:
        inspect_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("family", FAMILY_PREFIX)
def test_loaded_encoder_has_the_features_and_hash_of_the_trunk(tmp_path, trunk, state, family, legacy):
    path = saved(
        tmp_path,
        {"state_dict": prefixed(state, FAMILY_PREFIX[family]), "epoch": 5},
        _use_new_zipfile_serialization=not legacy,
    )
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
    rejected(path, "damaged safetensors")


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

    def test_missing_folder(self, tmp_path, arguments):
        with pytest.raises(DataError, match="cannot be written"):
            write_checkpoint(tmp_path / "none" / "a", **arguments)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


class TestWrongFiles:
    def test_missing(self, tmp_path):
        rejected(tmp_path / "none.pth", "does not exist")

    def test_folder(self, tmp_path):
        rejected(tmp_path, "is a folder")

    def test_empty(self, tmp_path):
        (tmp_path / "a.pth").touch()
        rejected(tmp_path / "a.pth", "empty file")

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("share", [0.00001, 0.5, 0.999])
    def test_truncated(self, tmp_path, state, legacy, share):
        path = saved(tmp_path, state, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        rejected(path, "truncated or damaged")

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"conv1.weight, 64, 3\n" * 50, "text"),
            (b"hi", "text"),
            (b"cos\nsystem\n(S'echo executed'\ntR.", "not a checkpoint"),
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "an image"),
            (b"\xff\xd8\xff\xe0" + bytes(100), "an image"),
            (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
            (bytes(range(1, 200)), "unknown format"),
            (b"\x80\x04nonsense", "damaged pickle"),
        ],
    )
    def test_not_a_checkpoint(self, tmp_path, content, kind):
        path = tmp_path / "a.pth"
        path.write_bytes(content)
        rejected(path, "not a checkpoint", kind)

    def test_other_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("notes.txt", b"")
        rejected(tmp_path / "a.zip", "zip archive of notes.txt")

    @pytest.mark.parametrize(
        "write",
        [
            lambda content, file: torch.save(content, file),
            lambda content, file: torch.save(content, file, _use_new_zipfile_serialization=False),
            lambda content, file: pickle.dump(content, file),
            lambda content, file: pickle.dump(content, file, protocol=2),
        ],
    )
    def test_nothing_is_executed(self, tmp_path, monkeypatch, state, write):
        monkeypatch.chdir(tmp_path)
        with open("evil.pth", "wb") as file:
            write({"state_dict": {"conv1.weight": 1}, "epoch": Evil()}, file)
        content = read_checkpoint(tmp_path / "evil.pth")
        assert content["epoch"].class_name == "posix.mkdir"
        rejected(tmp_path / "evil.pth", "no weights in state_dict")
        assert os.listdir() == ["evil.pth"]

    def test_plain_pickle(self, tmp_path):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"weight": 1}))
        rejected(tmp_path / "a.pkl", "no weights")

    @pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], 5])
    def test_not_a_dictionary(self, tmp_path, content):
        rejected(saved(tmp_path, content), f"contains a {type(content).__name__}")

    def test_optimizer_only(self, tmp_path):
        rejected(saved(tmp_path, {"optimizer": {"state": {}, "param_groups": []}}), "optimizer's state and no weights")

    def test_empty_state_dict(self, tmp_path):
        rejected(saved(tmp_path, {"state_dict": {}}), "empty")

    def test_missing_layers(self, tmp_path, state):
        half = {key: tensor for key, tensor in state.items() if not key.startswith(("layer3.", "layer4."))}
        message = rejected(
            saved(tmp_path, prefixed(half, "module.encoder.")), "encoder.layer3.0.conv1.weight", "missing"
        )
        assert len(message) < 600

    def test_wrong_shape(self, tmp_path, state):
        path = saved(tmp_path, state | {"layer3.0.conv1.weight": torch.zeros(256, 128, 1, 1)})
        rejected(path, "layer3.0.conv1.weight is (256, 128, 1, 1), not (256, 128, 3, 3)")

    @pytest.mark.parametrize("value", [float("nan"), float("-inf")])
    def test_not_finite(self, tmp_path, state, value):
        damaged = prefixed(state, "module.encoder.")
        damaged["module.encoder.layer2.1.bn1.weight"] = torch.full((128,), value)
        rejected(saved(tmp_path, damaged), "NaN or infinite", "module.encoder.layer2.1.bn1.weight")

    def test_quantized(self, tmp_path, state):
        path = saved(tmp_path, state | {"conv1.weight": torch.zeros(64, 3, 3, 3, dtype=torch.int8)})
        rejected(path, "conv1.weight as torch.int8")

    def test_meta_tensor(self, tmp_path, state):
        path = saved(tmp_path, state | {"conv1.weight": state["conv1.weight"].to("meta")})
        rejected(path, "conv1.weight without its values")

    def test_negative_variance(self, tmp_path, state):
        path = saved(tmp_path, state | {"bn1.running_var": torch.full((64,), -1.0)})
        rejected(path, "negative variances", "bn1.running_var")

    def test_weights_nested_too_deeply(self, tmp_path, state):
        nested = {"state_dict": state}
        for _ in range(9):
            nested = {"state_dict": nested}
        rejected(saved(tmp_path, nested), "no weights in state_dict, only state_dict")

    def test_value_that_is_not_a_tensor(self, tmp_path, state):
        rejected(saved(tmp_path, state | {"conv1.weight": "none"}), "conv1.weight", "missing")
        assert inspect_checkpoint(saved(tmp_path, state | {"version": 3})).skipped == {}

    def test_any_damaged_byte_is_a_data_error(self, tmp_path):
        buffer = io.BytesIO()
        torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, buffer)
        whole = buffer.getvalue()
        for position in range(0, len(whole), 7):
            damaged = bytearray(whole)
            damaged[position] ^= 0xFF
            (tmp_path / "a.pth").write_bytes(damaged)
            with pytest.raises(DataError):
                inspect_checkpoint(tmp_path / "a.pth")
