"""Files that timm writes: plain state dicts, folders for the Hugging Face hub, and checkpoints of its train.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.encoders.cases import Written, randomize, register

NO_TELLING = "nothing in the file tells it from torchvision's"


def create(name: str, **options: object) -> nn.Module:
    """timm's network, randomized, in eval mode."""
    import timm

    return randomize(timm.create_model(name, pretrained=False, num_classes=10, **options))


def _plain(name: str, **options: int) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        model = create(name, **options)
        torch.save(model.state_dict(), folder / "model.pth")
        return Written("model.pth", model.forward_features, channels=options.get("in_chans", 3))

    return write


def _hub(name: str, **options: int) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        from timm.models import save_for_hf

        model = create(name, **options)
        save_for_hf(model, str(folder / "hub"), model_config={"num_classes": 10})
        return Written("hub", model.forward_features, channels=options.get("in_chans", 3))

    return write


def _training(name: str, branch: str = "model") -> Callable[[Path], Written]:
    """The last.pth.tar of train.py: CheckpointSaver with a moving average of the weights."""

    def write(folder: Path) -> Written:
        from timm.utils import CheckpointSaver, ModelEmaV3

        model = create(name)
        average = ModelEmaV3(model)
        randomize(average)
        args = argparse.Namespace(model=name, num_classes=10, opt="sgd", img_size=None, model_ema=True)
        saver = CheckpointSaver(
            model, torch.optim.SGD(model.parameters(), lr=0.1), args, average, checkpoint_dir=str(folder)
        )
        saver.save_checkpoint(7, 0.5)
        return Written("last.pth.tar", (average.module if branch == "ema" else model).forward_features)

    return write


for _name in ("resnet18", "resnet50"):
    register(f"timm_{_name}", "timm", _plain(_name), arch=_name, stem="imagenet", note="plain state dict")
register("timm_resnext50", "timm", _plain("resnext50_32x4d"), arch="resnext50_32x4d", stem="imagenet")
for _name in ("resnetaa50", "resnetblur50"):
    register(f"timm_{_name}_bare", "timm", _plain(_name), expect="assume", note=NO_TELLING)
    register(f"timm_{_name}_named", "timm", _plain(_name), choice={"checkpoint": f"timm:{_name}@{{file}}"})
    register(
        f"timm_{_name}_hub",
        "timm",
        _hub(_name),
        family="timm",
        arch=f"timm:{_name}",
        note="config.json says the architecture",
    )
    register(f"timm_{_name}_hub_named", "timm", _hub(_name), choice={"checkpoint": f"timm:{_name}@{{file}}"})
for _name in ("resnet26d", "resnet14t", "resnet50s", "resnet26"):
    register(f"timm_{_name}_named", "timm", _plain(_name), choice={"checkpoint": f"timm:{_name}@{{file}}"})
    register(f"timm_{_name}_bare", "timm", _plain(_name), expect="either")
register("timm_resnet26d_hub", "timm", _hub("resnet26d"), expect="either", note="config.json says the architecture")
register("timm_resnet26d_hub_named", "timm", _hub("resnet26d"), choice={"checkpoint": "timm:resnet26d@{file}"})
register("timm_resnet18_hub", "timm", _hub("resnet18"), arch="resnet18", stem="imagenet")
register("timm_resnet50_hub", "timm", _hub("resnet50"), arch="resnet50", stem="imagenet")
for _channels in (1, 4):
    register(
        f"timm_resnet18_channels{_channels}",
        "timm",
        _plain("resnet18", in_chans=_channels),
        arch="resnet18",
        stem="imagenet",
        variant={"channels": _channels},
    )
register("timm_resnet18_channels1_hub", "timm", _hub("resnet18", in_chans=1), variant={"channels": 1})
register("timm_training", "timm", _training("resnet18"), arch="resnet18", stem="imagenet", note="state_dict of two")
register("timm_training_ema", "timm", _training("resnet18", "ema"), arch="resnet18", choice={"branch": "ema"})
register(
    "timm_training_resnetaa50",
    "timm",
    _training("resnetaa50"),
    family="timm",
    arch="timm:resnetaa50",
    note="arch in the file says resnetaa50",
)
register(
    "timm_training_resnetaa50_named",
    "timm",
    _training("resnetaa50"),
    choice={"checkpoint": "timm:resnetaa50@{file}", "branch": "state_dict"},
)
register("timm_convnext", "timm", _plain("convnext_atto"), expect="reject", reason="(?i)convnext|unknown|ResNet")
register("timm_vit", "timm", _plain("vit_tiny_patch16_224"), expect="reject", reason="(?i)transformer")
register(
    "timm_seresnet50",
    "timm",
    _plain("seresnet50"),
    family="timm",
    arch="timm:seresnet50",
    note="squeeze and excitation",
)
register(
    "timm_resnet50_gn",
    "timm",
    _plain("resnet50_gn"),
    family="timm",
    arch="timm:resnet50_gn",
    note="group normalization",
)
