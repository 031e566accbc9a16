"""Every format of checkpoint is read, and a file that is none is named for what it is."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import tarfile
import warnings
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from simsiam_eval.encoders.checkpoint_files.checkpoint_file import open_checkpoint, read_checkpoint
from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.errors import DataError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=2)
        self.layers = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("left_out", torch.ones(2), persistent=False)

    def forward(self, images):
        return self.layers(self.conv1(images))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def state(net):
    return dict(net.state_dict())


def same(read, state):
    assert list(read) == list(state)
    return all(torch.equal(read[key], value) and read[key].dtype == value.dtype for key, value in state.items())


def rejected(path, *parts):
    with pytest.raises(DataError) as error:
        open_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 500
    for part in parts:
        assert part in message
    return message


class TestModules:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_pickled_module(self, tmp_path, net, state, legacy):
        torch.save(net, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        read = open_checkpoint(tmp_path / "a.pth").content
        assert isinstance(read, ModuleState) and same(read, state)
        assert read.class_name.endswith(".Net")
        assert list(read.modules) == ["", "conv1", "layers", "layers.0", "layers.1"]
        assert read.modules["conv1"].state["padding"] == (2, 2)
        assert read.modules["layers.1"].class_name == "torch.nn.modules.activation.ReLU"

    def test_module_in_a_dict(self, tmp_path, net, state):
        torch.save({"epoch": 3, "model": nn.DataParallel(net), "list": [net]}, tmp_path / "a.pth")
        read = open_checkpoint(tmp_path / "a.pth").content
        assert read["epoch"] == 3
        assert same(read["model"], {f"module.{key}": value for key, value in state.items()})
        assert same(read["list"][0], state)

    def test_graph_module(self, tmp_path, net, state):
        torch.save(torch.fx.symbolic_trace(net), tmp_path / "a.pth")
        read = open_checkpoint(tmp_path / "a.pth").content
        assert read.keys() >= {"conv1.weight", "layers.0.running_var"}
        assert torch.equal(read["conv1.weight"], state["conv1.weight"])

    @pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(1, 3, 8, 8))])
    def test_torchscript(self, tmp_path, net, state, make):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(net).save(tmp_path / "a.pt")
        file = open_checkpoint(tmp_path / "a.pt")
        assert file.format == "TorchScript"
        assert all(torch.equal(file.content[key], value) for key, value in state.items())
        convolution = file.content.modules["conv1"].state
        assert (convolution["stride"], convolution["padding"], convolution["dilation"]) == ((2, 2), (2, 2), (1, 1))
        assert file.content.class_name.endswith(".Net") and "__torch__" not in file.content.class_name

    def test_modules_without_end(self, tmp_path):
        net = nn.Sequential()
        net._modules["self"] = net
        torch.save(net, tmp_path / "a.pth")
        rejected(tmp_path / "a.pth", "damaged")
        net = nn.Sequential()
        for _ in range(60):
            net = nn.Sequential(net, net)
        torch.save(net, tmp_path / "a.pth")
        rejected(tmp_path / "a.pth", "damaged")

    def test_object_with_a_module(self, tmp_path, net, state):
        torch.save(Learner(net), tmp_path / "a.pth")
        assert same(open_checkpoint(tmp_path / "a.pth").content["net"], state)


class Learner:
    def __init__(self, net):
        self.net, self.epoch = net, 3


class TestFormats:
    def test_safetensors(self, tmp_path, state):
        safetensors.torch.save_file(state, tmp_path / "a.safetensors", {"arch": "resnet18"})
        file = open_checkpoint(tmp_path / "a.safetensors")
        assert (file.format, file.metadata) == ("safetensors", {"arch": "resnet18"})
        assert same(dict(sorted(file.content.items())), dict(sorted(state.items())))

    def test_plain_pickle_of_tensors_and_arrays(self, tmp_path, state):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(state))
        assert same(read_checkpoint(tmp_path / "a.pkl"), state)
        arrays = {key: value.numpy() for key, value in state.items()}
        for protocol in range(6):
            (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "matching_heuristics": True}, protocol))
            file = open_checkpoint(tmp_path / "a.pkl")
            assert file.format == "pickle" and same(file.content["model"], state)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_npz(self, tmp_path, state, save):
        arrays = {key: value.numpy() for key, value in state.items()}
        save(tmp_path / "a.npz", **arrays, words=np.array(["a"]), objects=np.array([{}]), columns=np.ones((2, 3)).T)
        file = open_checkpoint(tmp_path / "a.npz")
        assert file.format == "npz"
        assert file.content["columns"].shape == (3, 2)
        assert same({key: value for key, value in file.content.items() if key != "columns"}, state)

    def test_npz_that_claims_too_much(self, tmp_path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**13,)})
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", header.getvalue() + bytes(8))
        rejected(tmp_path / "a.npz", "damaged")

    @pytest.mark.parametrize(("name", "module"), [("gzip", gzip), ("bzip2", bz2), ("xz", lzma)])
    def test_compressed(self, tmp_path, state, name, module):
        torch.save(state, tmp_path / "a.pth")
        with module.open(tmp_path / "a.pth.x", "wb") as file:
            file.write((tmp_path / "a.pth").read_bytes())
        file = open_checkpoint(tmp_path / "a.pth.x")
        assert file.format == f"{name} of torch" and same(file.content, state)
        (tmp_path / "a.pth.x").write_bytes((tmp_path / "a.pth.x").read_bytes()[:-20])
        rejected(tmp_path / "a.pth.x", f"damaged {name}")

    def test_zip_around_one_checkpoint(self, tmp_path, state):
        safetensors.torch.save_file(state, tmp_path / "a.safetensors")
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "a.safetensors", "folder/a.safetensors")
            archive.writestr("README.md", "weights")
            archive.writestr("__MACOSX/folder/._a.safetensors", b"")
        file = open_checkpoint(tmp_path / "a.zip")
        assert file.format == "zip of safetensors" and file.content.keys() == state.keys()
        with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
            archive.writestr("b.pth", b"")
        rejected(tmp_path / "a.zip", "zip archive of 2 checkpoints", "b.pth", "give one")

    def test_torch_zip_that_was_packed_again(self, tmp_path, state):
        torch.save(state, tmp_path / "a.pth")
        with (
            zipfile.ZipFile(tmp_path / "a.pth") as old,
            zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                new.writestr(name, old.read(name))
        assert same(read_checkpoint(tmp_path / "b.pth"), state)

    def test_tensors_are_mapped_and_survive_the_replaced_file(self, tmp_path, state):
        path = tmp_path / "a.pth"
        torch.save(state, path)
        read = read_checkpoint(path)
        read["kept"] += 1  # in memory alone
        assert torch.equal(read_checkpoint(path)["kept"], state["kept"])
        torch.save({"other": torch.zeros(3)}, tmp_path / "b.pth")
        os.replace(tmp_path / "b.pth", path)
        assert torch.equal(read["conv1.weight"], state["conv1.weight"])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_precisions_are_kept(self, tmp_path, dtype):
        torch.save({"w": torch.ones(3, dtype=dtype)}, tmp_path / "a.pth")
        assert read_checkpoint(tmp_path / "a.pth")["w"].dtype == dtype


class TestFolders:
    def test_hub_folder(self, tmp_path, state):
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
        torch.save({}, tmp_path / "optimizer.bin")
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
        folder, file = open_checkpoint(tmp_path), open_checkpoint(tmp_path / "model.safetensors")
        assert folder.config == file.config == {"architecture": "resnet18"}
        assert folder.path == str(tmp_path) and folder.content.keys() == state.keys()
        (tmp_path / "args.json").write_text(json.dumps({"backbone": "resnet50"}))
        opened = open_checkpoint(tmp_path)
        assert opened.configs["args.json"] == {"backbone": "resnet50"}
        assert opened.config == {"architecture": "resnet18", "backbone": "resnet50"}

    @pytest.mark.parametrize("name", ["config.yaml", "config.yml", "a.yaml"])
    def test_a_yaml_file_beside_the_weights(self, tmp_path, state, name):
        torch.save(state, tmp_path / "a.pth")
        (tmp_path / name).write_text("MODEL: {SIZES: !!python/tuple [1, 2], RUN: !!python/object/apply:os.system [ls]}")
        assert open_checkpoint(tmp_path / "a.pth").configs == {name: {"MODEL": {"SIZES": [1, 2], "RUN": ["ls"]}}}
        (tmp_path / name).write_text("colors: 3")
        assert open_checkpoint(tmp_path / "a.pth").configs == {}
        (tmp_path / name).write_text("MODEL: {")
        with pytest.raises(DataError, match=rf"{name} beside the weights cannot be read as YAML"):
            open_checkpoint(tmp_path / "a.pth")

    @pytest.mark.parametrize("text", ["[1]", '{"colors": 3}'])
    def test_other_config(self, tmp_path, state, text):
        torch.save(state, tmp_path / "a.pth")
        (tmp_path / "config.json").write_text(text)
        assert open_checkpoint(tmp_path).config == {}

    @pytest.mark.parametrize("text", ["{", "[" * 100_000])
    @pytest.mark.parametrize("name", ["config.json", "config.yaml"])
    def test_damaged_config(self, tmp_path, state, name, text):
        torch.save(state, tmp_path / "a.pth")
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=f"{name} beside the weights cannot be read as"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize("ending", ["safetensors", "bin"])
    def test_shards(self, tmp_path, state, ending):
        stem = {"safetensors": "model", "bin": "pytorch_model"}[ending]
        names = [f"{stem}-0000{number}-of-00002.{ending}" for number in (1, 2)]
        places = {key: names[index % 2] for index, key in enumerate(state)}
        for name in names:
            part = {key: state[key] for key, place in places.items() if place == name}
            save = safetensors.torch.save_file if ending == "safetensors" else torch.save
            save(part, tmp_path / name)
        rejected(tmp_path / names[0], "one of 2 shards")
        index = tmp_path / f"{stem}.{ending}.index.json"
        index.write_text(json.dumps({"weight_map": places}))
        rejected(tmp_path / names[0], "one of 2 shards", index.name)
        for path in (index, tmp_path):
            file = open_checkpoint(path)
            assert "2 shards" in file.format
            assert same({key: file.content[key] for key in state}, state)
        index.write_text(json.dumps({"weight_map": places | {"more": names[0]}}))
        rejected(index, "lists more, which no shard has")
        (tmp_path / names[1]).unlink()
        rejected(index, "2 shards", names[1], "missing")
        index.write_text(json.dumps({"weight_map": {"a": "../secret.bin"}}))
        rejected(index, "missing")

    def test_deepspeed(self, tmp_path, state):
        (tmp_path / "global_step3").mkdir()
        (tmp_path / "latest").write_text("global_step3")
        torch.save({"module": state}, tmp_path / "global_step3" / "mp_rank_00_model_states.pt")
        shard = tmp_path / "global_step3" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
        torch.save({}, shard)
        assert same(open_checkpoint(tmp_path).content["module"], state)
        rejected(shard, "state of the optimizer", "mp_rank_00_model_states.pt")
        shutil.copy(
            tmp_path / "global_step3" / "mp_rank_00_model_states.pt",
            tmp_path / "global_step3" / "mp_rank_01_model_states.pt",
        )
        rejected(tmp_path, "split into 2 files", "zero_to_fp32.py")

    def test_distributed_checkpoint(self, tmp_path, state):
        import torch.distributed.checkpoint as distributed

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            distributed.save({"model": state, "epoch": 3}, checkpoint_id=tmp_path / "a")
        file = open_checkpoint(tmp_path / "a")
        assert file.format == "distributed checkpoint"
        assert same({key: file.content[f"model.{key}"] for key in state}, state)
        part = next((tmp_path / "a").glob("*.distcp"))
        rejected(part, "part of a distributed checkpoint", "folder")
        part.write_bytes(part.read_bytes()[:3000])
        rejected(tmp_path / "a", "dcp_to_torch")

    def test_several_checkpoints(self, tmp_path):
        for number in range(2):
            torch.save({}, tmp_path / f"checkpoint_{number}.pth.tar")
        rejected(tmp_path, "2 checkpoints", "checkpoint_0.pth.tar, checkpoint_1.pth.tar", "give one")

    def test_none(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        rejected(tmp_path, "a folder without a checkpoint")


PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
OTHER = {
    "pointer.pth": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n",
        "Git LFS pointer",
        "git lfs pull",
    ),
    "page.pth": (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", "an HTML page", "download the file itself"),
    "a.json": (b'{"a": 1}', "a JSON file"),
    "tokenizer.json": (b'{"version": "1.0", "added_tokens": [], "model": {}}', "a Hugging Face tokenizer"),
    "config.json": (b'{"model_type": "resnet"}', "configuration of a model, without weights"),
    "not.json": (b"[" * 10**6, "text"),
    "a.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX model"),
    "a.tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "a TensorFlow Lite model"),
    "a.ckpt.index": (bytes(50) + bytes.fromhex("57fb808b247547db"), "TensorFlow checkpoint"),
    "a.ckpt.data-00000-of-00001": (bytes(50), "TensorFlow checkpoint"),
    "checkpoint": (b'model_checkpoint_path: "a"\n', "TensorFlow"),
    "flax_model.msgpack": (b"\x83" + bytes(50), "a Flax checkpoint"),
    "a.gguf": (b"GGUF" + bytes(50), "a GGUF file"),
    "a.png": (PNG, "an image"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "7z archive"),
    "a.xml": (b"<?xml version='1.0'?>", "an XML file"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "damaged HDF5"),
    "a.jpg": (b"\xff\xd8\xff\xe0" + bytes(100), "an image"),
    "a.txt": (b"conv1.weight, 64, 3\n" * 50, "text"),
    "short.txt": (b"hi", "text"),
    "unknown.pth": (bytes(range(1, 200)), "unknown format"),
}


class TestOtherFiles:
    @pytest.mark.parametrize("name", OTHER)
    def test_is_named(self, tmp_path, name):
        content, *parts = OTHER[name]
        (tmp_path / name).write_bytes(content)
        rejected(tmp_path / name, "not a checkpoint but", *parts)

    def test_hdf5(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["x"] = 1
        rejected(tmp_path / "a.h5", "an HDF5 file")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.attrs["format_version"] = 1
            file["features"] = np.zeros((2, 3))
        rejected(tmp_path / "a.h5", "a feature file")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.attrs["keras_version"] = "2"
        rejected(tmp_path / "a.h5", "a Keras model")

    def test_tar(self, tmp_path, state):
        torch.save(state, tmp_path / "a.pth")
        with tarfile.open(tmp_path / "b.tar", "w") as archive:
            archive.add(tmp_path / "a.pth", "a.pth")
        rejected(tmp_path / "b.tar", "a tar archive", "unpack")
        with tarfile.open(tmp_path / "b.tar", "w") as archive:
            for name in ("storages", "tensors", "pickle"):
                archive.add(tmp_path / "a.pth", name)
        rejected(tmp_path / "b.tar", "PyTorch 0.1")

    @pytest.mark.parametrize("length", [20, 200, 1000, -1])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_truncated(self, tmp_path, state, length, legacy):
        torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:length])
        rejected(tmp_path / "a.pth", "truncated or damaged", *([] if legacy else ["incomplete zip"]))

    def test_damaged_pickle(self, tmp_path):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x04nonsense")
        rejected(tmp_path / "a.pkl", "not a checkpoint (a truncated or damaged pickle)")

    def test_zip_without_a_checkpoint(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("notes.txt", b"")
        rejected(tmp_path / "a.zip", "zip archive of notes.txt")

    def test_torch_package(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("a/.data/extern_modules", b"")
            archive.writestr("a/model/data.pkl", b"")
        rejected(tmp_path / "a.pt", "torch.package")

    def test_exported_program(self, tmp_path, net):
        torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "a.pt2")
        rejected(tmp_path / "a.pt2", "torch.export")

    @pytest.mark.parametrize(
        ("content", "kind"), [(torch.zeros(3), "Tensor"), ([1, 2], "list"), (Net, "Net"), (Learner, "Learner")]
    )
    def test_no_mapping(self, tmp_path, content, kind):
        torch.save(content, tmp_path / "a.pth")
        rejected(tmp_path / "a.pth", "contains a", kind, "not a state dict")

    def test_unreadable(self, tmp_path):
        rejected(tmp_path / "none.pth", "does not exist")
        (tmp_path / "a.pth").touch()
        rejected(tmp_path / "a.pth", "empty file")
        rejected(tmp_path / "a.pth" / "b", "cannot be read")


def test_empty_path():
    with pytest.raises(DataError, match="path of the checkpoint is empty"):
        open_checkpoint("")
