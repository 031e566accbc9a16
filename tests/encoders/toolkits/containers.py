"""Entries, prefixes and wrappers around a torchvision ResNet, as training scripts save it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.encoders.cases import Written, case, randomize, register
from tests.encoders.toolkits.trunks import linear, maps, network, prefixed, state, without_fc

R18 = {"arch": "resnet18", "stem": "imagenet"}
StateDict = dict[str, Tensor]


def _in(container: tuple[str, ...]) -> Callable[[StateDict], dict[str, Any]]:
    def nest(state_dict: StateDict) -> dict[str, Any]:
        content: dict[str, Any] = state_dict
        for name in reversed(container):
            content = {name: content, "epoch": 7}
        return content

    return nest


def _under(prefix: str) -> Callable[[StateDict], dict[str, Any]]:
    return lambda state_dict: prefixed(state_dict, prefix)


def _saved(change: Callable[[StateDict], dict[str, Any]]) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        state_dict, encode = state()
        torch.save(change(state_dict), folder / "model.pt")
        return Written("model.pt", encode)

    return write


CONTAINERS = (
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "params",
    "encoder",
    "backbone",
    "ema",
    "model_ema",
    "ema_state_dict",
    "module",
    "state",
    "model.state_dict",
    "checkpoint.model",
    "state_dict.encoder",
    "classy_state_dict.model",
)
for _name in CONTAINERS:
    register(f"container_{_name.replace('.', '_in_')}", "torch", _saved(_in(tuple(_name.split(".")))), **R18)

PREFIXES = (
    "model.encoder.",
    "learner.net.",
    "online_network.",
    "online_encoder.net.",
    "module.model.backbone.",
    "model.module.",
    "student.backbone.trunk.",
    "resnet.",
    "features.",
    "a.very.deep.prefix.of.a.thesis.",
    "net_1.",
)
for _prefix in PREFIXES:
    register(f"prefix_{_prefix.rstrip('.').replace('.', '_')}", "torch", _saved(_under(_prefix)), **R18)

for _name, _prefix in (("net", "module.encoder."), ("model_state_dict", "backbone.model."), ("params", "f.")):
    register(
        f"container_{_name}_prefix_{_prefix.rstrip('.').replace('.', '_')}",
        "torch",
        _saved(lambda state_dict, name=_name, prefix=_prefix: {name: prefixed(state_dict, prefix), "step": 3}),
        **R18,
    )


def _extra(heads: dict[str, tuple[int, int]]) -> Callable[[StateDict], dict[str, Any]]:
    def add(state_dict: StateDict) -> dict[str, Any]:
        for name, widths in heads.items():
            state_dict |= prefixed(linear(*widths), f"{name}.")
        return state_dict

    return add


for _name, _heads in (
    ("projection_head", {"projection_head.0": (512, 512), "projection_head.2": (512, 128)}),
    ("prototypes", {"projection_head.0": (512, 128), "prototypes": (128, 300)}),
    ("head", {"head": (512, 10)}),
    ("linear", {"linear": (512, 10)}),
    ("classifier", {"classifier.1": (512, 10)}),
):
    register(f"bare_with_{_name}", "torch", _saved(_extra(_heads)), **R18, note="a head beside a bare trunk")


@case("torch", **R18, note="the projector in the backbone's fc")
def fc_inside_backbone(folder: Path) -> Written:
    model = network()
    torch.save({"state_dict": prefixed(dict(model.state_dict()), "backbone.")}, folder / "model.pth.tar")
    return Written("model.pth.tar", maps(model))


@case("torch", **R18, note="shortcut. for downsample.")
def shortcut_for_downsample(folder: Path) -> Written:
    state_dict, encode = state()
    torch.save({key.replace("downsample", "shortcut"): value for key, value in state_dict.items()}, folder / "model.pt")
    return Written("model.pt", encode)


@case("torch", **R18, note="older torch: no num_batches_tracked")
def without_num_batches_tracked(folder: Path) -> Written:
    state_dict, encode = state()
    kept = {key: value for key, value in state_dict.items() if not key.endswith("num_batches_tracked")}
    torch.save(kept, folder / "model.pt")
    return Written("model.pt", encode)


def _two(branch: str | None) -> Callable[[Path], Written]:
    """Two networks without a name that says which is to be used."""

    def write(folder: Path) -> Written:
        networks = {"net_a": without_fc(), "net_b": without_fc()}
        content = {name: dict(model.state_dict()) for name, model in networks.items()}
        torch.save(content, folder / "pair.pt")
        return Written("pair.pt", maps(networks[branch]) if branch else None)

    return write


register("two_trunks", "torch", _two(None), expect="reject", reason="branch.*net_a.*net_b|net_a.*net_b.*branch")
register("two_trunks_branch", "torch", _two("net_b"), **R18, choice={"branch": "net_b"})


def _wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        model = network()
        torch.save(wrap(model).state_dict(), folder / "model.pt")
        return Written("model.pt", maps(model))

    return write


register("wrapped_data_parallel", "torch", _wrapped(nn.DataParallel), **R18)
register("wrapped_compile", "torch", _wrapped(torch.compile), **R18)
register("wrapped_compile_data_parallel", "torch", _wrapped(lambda model: nn.DataParallel(torch.compile(model))), **R18)


@case("torch", **R18, note="n_averaged and module.")
def averaged_model(folder: Path) -> Written:
    average = randomize(torch.optim.swa_utils.AveragedModel(network()))
    torch.save(average.state_dict(), folder / "swa.pt")
    return Written("swa.pt", maps(average.module))


@case("timm", **R18, note="ModelEmaV3.state_dict()")
def timm_model_ema_v3(folder: Path) -> Written:
    from timm.utils import ModelEmaV3

    average = randomize(ModelEmaV3(network()))
    torch.save({"ema": average.state_dict()}, folder / "ema.pt")
    return Written("ema.pt", maps(average.module))


@case("torch", **R18, note="DistributedDataParallel, one process")
def wrapped_distributed(folder: Path) -> Written:
    model = network()
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
    try:
        state_dict = nn.parallel.DistributedDataParallel(model).state_dict()
    finally:
        torch.distributed.destroy_process_group()
        (folder / "rendezvous").unlink(missing_ok=True)
    torch.save({"epoch": 3, "state_dict": state_dict}, folder / "model.pt")
    return Written("model.pt", maps(model))
