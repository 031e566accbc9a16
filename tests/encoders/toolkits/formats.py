"""File formats, folders and precisions; and what is not a checkpoint of an encoder."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.encoders.cases import Written, case, register
from tests.encoders.toolkits.objects import script_class
from tests.encoders.toolkits.trunks import linear, maps, network, prefixed, state, without_fc

R18 = {"arch": "resnet18", "stem": "imagenet"}


def _in_precision(dtype: torch.dtype) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        model = network().to(dtype)
        torch.save(model.state_dict(), folder / "model.pt")
        return Written("model.pt", maps(model.float()))

    return write


for _dtype in (torch.float16, torch.bfloat16, torch.float64):
    register(f"precision_{str(_dtype)[6:]}", "torch", _in_precision(_dtype), **R18)


@case("torch", **R18, note="torch.save(model)")
def module_pickled(folder: Path) -> Written:
    model = network()
    torch.save(model, folder / "model.pt")
    return Written("model.pt", maps(model))


@case("torch", **R18, note='{"model": model}')
def module_in_dict(folder: Path) -> Written:
    model = network()
    torch.save({"epoch": 3, "model": model}, folder / "model.pt")
    return Written("model.pt", maps(model))


@case("torch", **R18, note="DataParallel around the module")
def module_data_parallel(folder: Path) -> Written:
    model = network()
    torch.save(nn.DataParallel(model), folder / "model.pt")
    return Written("model.pt", maps(model))


@case("torch", **R18, note="a module of a class that only the training script has")
def module_of_script(folder: Path) -> Written:
    encoder = without_fc()
    with script_class("SimSiam", nn.Module) as kind:
        model = kind()
        model.encoder, model.predictor = encoder, nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 512))
        torch.save({"model": model, "epoch": 5}, folder / "model.pt")
    return Written("model.pt", maps(encoder))


def _cifar(padding: int, pool: bool) -> nn.Module:
    model = without_fc()
    model.conv1 = nn.Conv2d(3, 64, 3, padding=padding, bias=False)
    if not pool:
        model.maxpool = nn.Identity()
    return model.eval()


@case("torch", arch="resnet18", stem="cifar", variant={"stem_padding": 2}, note="the module's own padding says it")
def module_cifar_padding2(folder: Path) -> Written:
    model = _cifar(padding=2, pool=False)
    torch.save(model, folder / "model.pt")
    return Written("model.pt", maps(model), size=32)


for _name, _choice, _padding, _pool in (
    ("padding2", {"stem_padding": 2}, 2, False),
    ("max_pool", {"stem_pool": True}, 1, True),
):

    def _stem(folder: Path, padding: int = _padding, pool: bool = _pool) -> Written:
        model = _cifar(padding, pool)
        torch.save(model.state_dict(), folder / "model.pt")
        return Written("model.pt", maps(model), size=32)

    register(f"cifar_stem_{_name}_chosen", "torch", _stem, arch="resnet18", stem="cifar", choice=_choice)
    register(f"cifar_stem_{_name}", "torch", _stem, expect="assume", note="the file cannot tell")


@case("torch", arch="resnet18", stem="cifar", variant={})
def cifar_stem(folder: Path) -> Written:
    model = _cifar(padding=1, pool=False)
    torch.save({"state_dict": prefixed(model.state_dict(), "module.encoder.")}, folder / "model.pt")
    return Written("model.pt", maps(model), size=32)


@case("torch", **R18, note="torch.jit.trace")
def torchscript_trace(folder: Path) -> Written:
    model = network()
    torch.jit.trace(model, torch.zeros(1, 3, 64, 64)).save(str(folder / "traced.pt"))
    return Written("traced.pt", maps(model))


@case("torch", **R18, note="torch.jit.script")
def torchscript_script(folder: Path) -> Written:
    model = network()
    torch.jit.script(model).save(str(folder / "scripted.pt"))
    return Written("scripted.pt", maps(model))


@case("torch", expect="either", note="torch.export")
def exported_program(folder: Path) -> Written:
    model = network()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 3, 64, 64),)), folder / "model.pt2")
    return Written("model.pt2", maps(model))


def _packed(pack: Callable[[Path, Path], None], name: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        state_dict, encode = state()
        torch.save({"state_dict": prefixed(state_dict, "module.encoder.")}, folder / "model.pth.tar")
        pack(folder / "model.pth.tar", folder / name)
        (folder / "model.pth.tar").unlink()
        return Written(name, encode)

    return write


def _gzip(source: Path, target: Path) -> None:
    with source.open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed)


def _zip(source: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(source, "run/checkpoints/model.pth.tar")
        archive.writestr("run/README.md", "Trained for 100 epochs.")


register("gzip", "torch", _packed(_gzip, "model.pth.tar.gz"), **R18)
register("zip", "torch", _packed(_zip, "model.zip"), **R18)


@case("numpy", **R18)
def npz(folder: Path) -> Written:
    state_dict, encode = state()
    np.savez(folder / "weights.npz", **{key: value.numpy() for key, value in state_dict.items()})
    return Written("weights.npz", encode)


@case("torch", **R18, note="torch.distributed.checkpoint.save: .metadata and shards")
def distributed_checkpoint(folder: Path) -> Written:
    from torch.distributed import checkpoint

    model = network()
    checkpoint.save({"model": model.state_dict()}, checkpoint_id=str(folder / "step_100"), no_dist=True)
    return Written("step_100", maps(model))


@case("torch", **R18, note="dcp_to_torch_save")
def distributed_checkpoint_consolidated(folder: Path) -> Written:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    model = network()
    checkpoint.save({"model": model.state_dict()}, checkpoint_id=str(folder / "step"), no_dist=True)
    dcp_to_torch_save(str(folder / "step"), str(folder / "model.pt"))
    shutil.rmtree(folder / "step")
    return Written("model.pt", maps(model))


def _deepspeed(folder: Path) -> tuple[Path, Any]:
    """The layout of DeepSpeed's save_checkpoint, ZeRO stage 0 to 2; the library itself needs a compiler."""
    state_dict, encode = state()
    step = folder / "run" / "global_step100"
    step.mkdir(parents=True)
    content = {
        "module": state_dict,
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": None,
        "lr_scheduler": None,
        "sparse_tensor_module_names": set(),
        "skipped_steps": 0,
        "global_steps": 100,
        "global_samples": 6400,
        "dp_world_size": 1,
        "mp_world_size": 1,
        "ds_config": {"train_batch_size": 64, "zero_optimization": {"stage": 2}},
        "ds_version": "0.16.4",
    }
    torch.save(content, step / "mp_rank_00_model_states.pt")
    shard = {"optimizer_state_dict": {"zero_stage": 2, "partition_count": 1}, "ds_version": "0.16.4"}
    torch.save(shard, step / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "run" / "latest").write_text("global_step100")
    return step, encode


@case("torch", **R18, note="DeepSpeed's mp_rank_00_model_states.pt")
def deepspeed_model_states(folder: Path) -> Written:
    step, encode = _deepspeed(folder)
    return Written(str((step / "mp_rank_00_model_states.pt").relative_to(folder)), encode)


@case("torch", **R18, note="DeepSpeed's folder with `latest`")
def deepspeed_folder(folder: Path) -> Written:
    return Written("run", _deepspeed(folder)[1])


# What is not a checkpoint of an encoder.


def _text(name: str, content: bytes) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        (folder / name).write_bytes(content)
        return Written(name)

    return write


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 46830571\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>Google Drive - Quota exceeded</title></head><body></body></html>\n"
register("lfs_pointer", "torch", _text("model.pth", LFS), expect="reject", reason="(?i)lfs")
register("lfs_pointer_safetensors", "torch", _text("model.safetensors", LFS), expect="reject", reason="(?i)lfs")
register("html_page", "torch", _text("model.pth", HTML), expect="reject", reason="(?i)html|web page")
register("empty_file", "torch", _text("model.pth", b""), expect="reject", reason="empty")
register(
    "json_file", "torch", _text("model.pth", b'{"message": "Not Found"}\n'), expect="reject", reason="(?i)json|text"
)


@case("onnx", expect="reject", reason="(?i)onnx")
def onnx_model(folder: Path) -> Written:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(network().conv1.weight.detach().numpy(), "conv1.weight")
    node = helper.make_node("Conv", ["images", "conv1.weight"], ["maps"], strides=[2, 2], pads=[3, 3, 3, 3])
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 224, 224])
    output = helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 64, 112, 112])
    onnx.save(
        helper.make_model(helper.make_graph([node], "resnet", [image], [output], [weight])), folder / "model.onnx"
    )
    return Written("model.onnx")


def _broken(break_: Callable[[bytes], bytes], legacy: bool = False) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        path = folder / "model.pth"
        torch.save(state()[0], path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(break_(path.read_bytes()))
        return Written("model.pth")

    return write


register(
    "truncated", "torch", _broken(lambda data: data[:-9999]), expect="reject", reason="truncated|damaged|incomplete"
)
register(
    "truncated_legacy",
    "torch",
    _broken(lambda data: data[:-9999], legacy=True),
    expect="reject",
    reason="truncated|damaged",
)


def _changed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        torch.save(change(state()[0]), folder / "model.pth")
        return Written("model.pth")

    return write


def _without(part: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state_dict: {key: value for key, value in state_dict.items() if part not in key}


def _optimizer_only(state_dict: dict[str, Any]) -> dict[str, Any]:
    model = without_fc()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return {"optimizer": optimizer.state_dict(), "epoch": 3}


for _name, _change, _reason in (
    ("without_layer4", _without("layer4"), "layer4"),
    ("without_one_key", _without("layer2.1.bn1.running_mean"), "layer2.1.bn1.running_mean"),
    ("optimizer_only", _optimizer_only, "(?i)optimizer"),
    ("head_only", lambda state_dict: prefixed(linear(512, 10), "fc."), None),
    ("meta_tensors", lambda state_dict: {key: value.to("meta") for key, value in state_dict.items()}, "meta"),
    ("not_finite", lambda state_dict: {key: value * float("nan") for key, value in state_dict.items()}, "NaN"),
    ("instance_norm", lambda state_dict: {key: value for key, value in state_dict.items() if "bn" not in key}, "bn"),
):
    register(f"{_name}", "torch", _changed(_change), expect="reject", reason=_reason)
