"""Objects beside the weights: what training scripts put into a checkpoint besides tensors."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import pathlib
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.encoders.cases import Written, register
from tests.encoders.toolkits.trunks import prefixed, state

SCRIPT = "train_simsiam"  # the module of a user's training script, which nobody else has


@contextmanager
def script_class(name: str, base: type = object) -> Iterator[type]:
    """A class of a training script, which exists only while the file is written."""
    module = types.ModuleType(SCRIPT)
    made = type(name, (base,), {"__module__": SCRIPT})
    setattr(module, name, made)
    sys.modules[SCRIPT] = module
    try:
        yield made
    finally:
        del sys.modules[SCRIPT]


def _with(make: Callable[[], dict[str, Any]], save: Callable[..., None] = torch.save, **options: Any) -> Any:
    def write(folder: Path) -> Written:
        state_dict, encode = state()
        save(
            {"epoch": 100, "state_dict": prefixed(state_dict, "module.encoder."), **make()},
            folder / "a.pth.tar",
            **options,
        )
        return Written("a.pth.tar", encode)

    return write


def _optimizer() -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)


def _yacs() -> Any:
    from yacs.config import CfgNode

    return CfgNode({"MODEL": CfgNode({"NAME": "resnet18"}), "LR": 0.05})


def _omegaconf() -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.create({"model": {"name": "resnet18"}, "lr": 0.05, "layers": [1, 2]})


OBJECTS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "namespace": ("torch", lambda: {"args": argparse.Namespace(arch="resnet18", lr=0.05)}),
    "simple_namespace": ("torch", lambda: {"args": types.SimpleNamespace(arch="resnet18")}),
    "path_in_namespace": ("torch", lambda: {"args": argparse.Namespace(data=pathlib.Path("/data"))}),
    "windows_path": ("torch", lambda: {"data": pathlib.PureWindowsPath("C:/data")}),
    "device": ("torch", lambda: {"args": argparse.Namespace(device=torch.device("cpu"), dtype=torch.float16)}),
    "datetime": ("torch", lambda: {"time": datetime.datetime(2024, 5, 1, 12), "took": datetime.timedelta(hours=3)}),
    "defaultdict": ("torch", lambda: {"history": collections.defaultdict(list, {"loss": [0.1]})}),
    "deque_and_counter": (
        "torch",
        lambda: {
            "last": collections.deque([1, 2], maxlen=5),
            "counts": collections.Counter("aab"),
            "kinds": {"a", "b"},
        },
    ),
    "numpy_scalar": ("numpy", lambda: {"best": np.float64(91.2), "step": np.int64(3), "amp": np.bool_(True)}),
    "numpy_array": ("numpy", lambda: {"history": np.arange(5.0), "names": np.array(["a", "b"])}),
    "numpy_object_array": ("numpy", lambda: {"history": np.array([{"loss": 1.0}, None], dtype=object)}),
    "rng_states": (
        "numpy",
        lambda: {
            "rng": random.getstate(),
            "numpy": np.random.get_state(),
            "generator": np.random.default_rng(0),
            "torch": torch.get_rng_state(),
        },
    ),
    "omegaconf": ("omegaconf", lambda: {"cfg": _omegaconf()}),
    "yacs": ("yacs", lambda: {"cfg": _yacs()}),
    "scheduler": ("torch", lambda: dict(zip(("optimizer", "scheduler"), _optimizer(), strict=True))),
    "scaler": ("torch", lambda: {"scaler": torch.amp.GradScaler("cpu", enabled=False)}),
    "partial": ("torch", lambda: {"optimizer": functools.partial(torch.optim.SGD, lr=0.1)}),
    "function": ("torch", lambda: {"activation": nn.functional.relu, "kind": nn.BatchNorm2d}),
    "transforms": ("torchvision", lambda: {"transform": _transform()}),
    "generator": ("torch", lambda: {"names": dict.fromkeys("ab"), "slice": slice(0, 3), "number": 3 + 2j, "none": ...}),
}


def _transform() -> Any:
    from torchvision import transforms

    return transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()])


for _name, (_packages, _make) in OBJECTS.items():
    register(f"object_{_name}", _packages, _with(_make), arch="resnet18", stem="imagenet")
for _protocol in (3, 4, 5):
    register(
        f"pickle_protocol_{_protocol}",
        "torch",
        _with(lambda: {"args": argparse.Namespace(arch="resnet18")}, pickle_protocol=_protocol),
        arch="resnet18",
    )
register(
    "legacy_format",
    "torch",
    _with(dict, _use_new_zipfile_serialization=False),
    arch="resnet18",
    note="before torch 1.6",
)
register(
    "legacy_format_objects",
    "torch",
    _with(OBJECTS["namespace"][1], _use_new_zipfile_serialization=False, pickle_protocol=4),
    arch="resnet18",
)


def _average_meter(folder: Path) -> Written:
    with script_class("AverageMeter") as meter:
        value = meter()
        value.__dict__.update(name="Loss", val=0.1, avg=0.2, sum=20.0, count=100)
        return _with(lambda: {"losses": value})(folder)


register("object_average_meter", "torch", _average_meter, arch="resnet18", note="a class of the training script")


def _dict_of_script(folder: Path) -> Written:
    with script_class("Config", dict) as config:
        return _with(lambda: {"config": config(lr=0.1, arch="resnet18")})(folder)


register("object_dict_subclass", "torch", _dict_of_script, arch="resnet18", note="a subclass of dict in the script")


def _lightning(make: Callable[[], dict[str, Any]]) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        from tests.encoders.toolkits.lightly import fit
        from tests.encoders.toolkits.trunks import maps, without_fc

        encoder = without_fc()
        fit({"encoder": encoder, "projector": nn.Sequential(nn.Linear(512, 128))}, folder, make())
        return Written("last.ckpt", maps(encoder))

    return write


for _name, _packages, _make in (
    ("numpy", "numpy", lambda: {"class_weights": np.ones(3), "lr": np.float32(0.1)}),
    ("partial", "torch", lambda: {"optimizer": functools.partial(torch.optim.SGD, lr=0.1)}),
    ("omegaconf", "omegaconf", lambda: {"cfg": _omegaconf()}),
    ("path", "torch", lambda: {"root": pathlib.Path("/data"), "date": datetime.date(2024, 5, 1)}),
):
    register(
        f"lightning_hparams_{_name}",
        f"pytorch_lightning {_packages}",
        _lightning(_make),
        arch="resnet18",
        note="save_hyperparameters",
    )
