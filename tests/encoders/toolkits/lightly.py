"""Files that lightly's examples write with PyTorch Lightning, and the plain state dicts of its tutorials."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from tests.encoders.cases import Written, case, randomize, register

R18 = {"family": "lightly", "arch": "resnet18", "stem": "imagenet"}


def sequential(network: nn.Module) -> nn.Sequential:
    """The backbone of lightly's examples: a ResNet's children without its classifier."""
    return nn.Sequential(*list(network.children())[:-1])


def fit(parts: dict[str, nn.Module], folder: Path, hyper_parameters: dict[str, Any] | None = None) -> None:
    """One step of a LightningModule with these parts, then randomized weights, saved as folder/last.ckpt."""
    import pytorch_lightning

    class Example(pytorch_lightning.LightningModule):
        def __init__(self, **hyper_parameters: Any) -> None:
            super().__init__()
            if hyper_parameters:
                self.save_hyperparameters()
            for name, part in parts.items():
                setattr(self, name, part)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return next(iter(parts.values()))(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.06)

    model = Example(**hyper_parameters or {})
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32)), batch_size=4)
    trainer = pytorch_lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model, data)
    randomize(model)
    trainer.save_checkpoint(folder / "last.ckpt")


def _heads() -> dict[str, tuple[Callable[[Any], dict[str, nn.Module]], dict[str, Any]]]:
    """Method -> (its heads, from lightly.models.modules.heads; what is expected)."""
    return {
        "simsiam": (
            lambda heads: {
                "projection_head": heads.SimSiamProjectionHead(512, 512, 128),
                "prediction_head": heads.SimSiamPredictionHead(128, 64, 128),
            },
            {"projector": [512, 512, 512, 128], "predictor": [128, 64, 128]},
        ),
        "simclr": (
            lambda heads: {"projection_head": heads.SimCLRProjectionHead(512, 2048, 2048)},
            {"projector": [512, 2048, 2048], "predictor": []},
        ),
        "barlowtwins": (
            lambda heads: {"projection_head": heads.BarlowTwinsProjectionHead(512, 2048, 2048)},
            {"projector": [512, 2048, 2048, 2048], "predictor": []},
        ),
        "vicreg": (
            lambda heads: {"projection_head": heads.VICRegProjectionHead(512, 2048, 2048, num_layers=2)},
            {"projector": [512, 2048, 2048], "predictor": []},
        ),
        "swav": (
            lambda heads: {
                "projection_head": heads.SwaVProjectionHead(512, 512, 128),
                "prototypes": heads.SwaVPrototypes(128, 512),
            },
            {"projector": [512, 512, 128], "predictor": []},
        ),
    }


def _example(method: str, make: Callable[[Any], dict[str, nn.Module]]) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        from lightly.models.modules import heads

        backbone = sequential(resnet18())
        fit({"backbone": backbone, **make(heads)}, folder)
        return Written("last.ckpt", lambda images: backbone(images).flatten(1))

    return write


for _method, (_make, _expected) in _heads().items():
    register(
        f"lightly_{_method}",
        "lightly pytorch_lightning",
        _example(_method, _make),
        **R18,
        **_expected,
        note="example's .ckpt",
    )


def _momentum(
    names: tuple[str, str], chosen: str, make: Callable[[Any], dict[str, nn.Module]]
) -> Callable[[Path], Written]:
    """A method with two trunks, named `names`."""

    def write(folder: Path) -> Written:
        from lightly.models.modules import heads

        first = sequential(resnet18())
        trunks = {names[0]: first, names[1]: copy.deepcopy(first)}
        fit({**trunks, **make(heads)}, folder)
        return Written("last.ckpt", lambda images: trunks[chosen](images).flatten(1))

    return write


def _moco(heads: Any) -> dict[str, nn.Module]:
    head = heads.MoCoProjectionHead(512, 512, 128)
    return {"projection_head": head, "projection_head_momentum": copy.deepcopy(head)}


def _byol(heads: Any) -> dict[str, nn.Module]:
    head = heads.BYOLProjectionHead(512, 1024, 256)
    return {
        "projection_head": head,
        "prediction_head": heads.BYOLPredictionHead(256, 1024, 256),
        "projection_head_momentum": copy.deepcopy(head),
    }


def _dino(heads: Any) -> dict[str, nn.Module]:
    return {
        "student_head": heads.DINOProjectionHead(512, 512, 64, 2048, freeze_last_layer=1),
        "teacher_head": heads.DINOProjectionHead(512, 512, 64, 2048),
    }


_PAIR = ("backbone", "backbone_momentum")
_DINO = ("student_backbone", "teacher_backbone")
for _name, _names, _chosen, _make, _more in (
    ("moco", _PAIR, "backbone", _moco, {"projector": [512, 512, 128]}),
    ("moco_momentum", _PAIR, "backbone_momentum", _moco, {"choice": {"branch": "momentum"}}),
    ("byol", _PAIR, "backbone", _byol, {"projector": [512, 1024, 256], "predictor": [256, 1024, 256]}),
    ("byol_momentum", _PAIR, "backbone_momentum", _byol, {"choice": {"branch": "momentum"}}),
    ("dino_teacher", _DINO, "teacher_backbone", _dino, {"choice": {"branch": "teacher"}}),
    ("dino_student", _DINO, "student_backbone", _dino, {"choice": {"branch": "student"}}),
):
    register(f"lightly_{_name}", "lightly pytorch_lightning", _momentum(_names, _chosen, _make), **R18, **_more)


def _simsiam_module(network: nn.Module, width: int) -> nn.Module:
    from lightly.models.modules import heads

    model = nn.Module()
    model.backbone = sequential(network)
    model.projection_head = heads.SimSiamProjectionHead(width, width, 128)
    model.prediction_head = heads.SimSiamPredictionHead(128, 64, 128)
    return randomize(model)


@case("lightly", **R18, projector=[512, 512, 512, 128], predictor=[128, 64, 128])
def lightly_simsiam_state_dict(folder: Path) -> Written:
    model = _simsiam_module(resnet18(), 512)
    torch.save(model.state_dict(), folder / "simsiam.pth")
    return Written("simsiam.pth", lambda images: model.backbone(images).flatten(1))


@case("lightly", family="lightly", arch="resnet50", stem="imagenet", projector=[2048, 2048, 2048, 128])
def lightly_simsiam_resnet50(folder: Path) -> Written:
    model = _simsiam_module(resnet50(), 2048)
    torch.save(model.state_dict(), folder / "simsiam.pth")
    return Written("simsiam.pth", lambda images: model.backbone(images).flatten(1))


@case("lightly", **R18, note="tutorials' {'resnet18_parameters': ...}")
def lightly_tutorial_parameters(folder: Path) -> Written:
    backbone = randomize(sequential(resnet18()))
    torch.save({"resnet18_parameters": backbone.state_dict()}, folder / "model.pth")
    return Written("model.pth", backbone)


@case("lightly", **R18, note="keys 0.weight, 4.0.conv1.weight")
def lightly_backbone_sequential(folder: Path) -> Written:
    backbone = randomize(sequential(resnet18()))
    torch.save(backbone.state_dict(), folder / "backbone.pth")
    return Written("backbone.pth", backbone)


@case("lightly", arch="resnet18", stem="imagenet", note="benchmarks: named ResNet with fc = Identity beside heads")
def lightly_named_backbone(folder: Path) -> Written:
    from lightly.models.modules import heads

    model = nn.Module()
    model.backbone = resnet18()
    model.backbone.fc = nn.Identity()
    model.projection_head = heads.SimCLRProjectionHead(512, 512, 128)
    model.online_classifier = nn.Linear(512, 1000)
    randomize(model)
    torch.save(
        {"epoch": 100, "state_dict": model.state_dict(), "hyper_parameters": {"batch_size": 256}}, folder / "a.ckpt"
    )
    return Written("a.ckpt", model.backbone)


def _generator(name: str) -> nn.Module:
    from lightly.models import ResNetGenerator

    return randomize(ResNetGenerator(name))


def _maps(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of lightly's ResNetGenerator up to layer4."""

    def encode(images: torch.Tensor) -> torch.Tensor:
        maps = nn.functional.relu(network.bn1(network.conv1(images)))
        for index in range(1, 5):
            maps = getattr(network, f"layer{index}")(maps)
        return maps

    return encode


for _name, _expected in (
    ("resnet-18", {"arch": "resnet18", "stem": "cifar"}),
    ("resnet-34", {"arch": "resnet34", "stem": "cifar"}),
    ("resnet-50", {"arch": "resnet50", "stem": "cifar"}),
):

    def _write(folder: Path, name: str = _name) -> Written:
        network = _generator(name)
        torch.save(network.state_dict(), folder / "resnet.pth")
        return Written("resnet.pth", _maps(network), size=32)

    register(f"lightly_generator_{_name.replace('-', '')}", "lightly", _write, **_expected, note="shortcut., linear.")


@case(
    "lightly", expect="reject", reason="resnet|layer|architecture", note="a ResNet with one block of 8 widths per stage"
)
def lightly_generator_resnet9(folder: Path) -> Written:
    torch.save(_generator("resnet-9").state_dict(), folder / "resnet.pth")
    return Written("resnet.pth")


def _generator_sequential(kept: int) -> nn.Sequential:
    children = list(_generator("resnet-18").children())
    return nn.Sequential(*children[:kept], nn.AdaptiveAvgPool2d(1))


@case("lightly", family="lightly", arch="resnet18", stem="cifar", variant={"stem_relu": False})
def lightly_generator_sequential(folder: Path) -> Written:
    """The Sequential of lightly's CIFAR examples: no ReLU between bn1 and layer1, so that layer1 has index 2."""
    from lightly.models.modules import heads

    model = types.SimpleNamespace(backbone=_generator_sequential(-1), head=heads.SimSiamProjectionHead(512, 512, 128))
    randomize(model.backbone)
    state_dict = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    state_dict |= {f"projection_head.{key}": value for key, value in model.head.state_dict().items()}
    torch.save({"state_dict": state_dict}, folder / "cifar.ckpt")
    return Written("cifar.ckpt", lambda images: model.backbone(images).flatten(1), size=32)
