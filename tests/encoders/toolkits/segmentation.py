"""Networks of segmentation-models-pytorch, whose encoder is a part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.encoders.cases import Written, case, randomize, register
from tests.encoders.toolkits.lightly import fit

R18 = {"arch": "resnet18", "stem": "imagenet"}


def _unet(folder: Path) -> nn.Module:
    import segmentation_models_pytorch

    model = randomize(segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, classes=3))
    torch.save(model.state_dict(), folder / "unet.pth")
    return model


@case("segmentation_models_pytorch", expect="reject", reason="branch", note="part of a larger network")
def smp_unet(folder: Path) -> Written:
    _unet(folder)
    return Written("unet.pth")


def _branch(written: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        model = _unet(folder)
        return Written(written, lambda images: model.encoder(images)[-1])

    return write


register("smp_unet_branch", "segmentation_models_pytorch", _branch("unet.pth"), **R18, choice={"branch": "backbone"})


@case("segmentation_models_pytorch pytorch_lightning", **R18, choice={"branch": "backbone"}, note="model.encoder.")
def smp_unet_lightning(folder: Path) -> Written:
    import segmentation_models_pytorch

    model = segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, classes=3)
    fit({"model": model}, folder)
    return Written("last.ckpt", lambda images: model.encoder(images)[-1])


@case("segmentation_models_pytorch", **R18, note="torch.save(model.encoder.state_dict())")
def smp_encoder(folder: Path) -> Written:
    model = _unet(folder)
    (folder / "unet.pth").unlink()
    torch.save(model.encoder.state_dict(), folder / "encoder.pth")
    return Written("encoder.pth", lambda images: model.encoder(images)[-1])


@case("segmentation_models_pytorch", expect="reject", reason="branch", note="save_pretrained: config.json says Unet")
def smp_folder(folder: Path) -> Written:
    _unet(folder).save_pretrained(str(folder / "unet"))
    (folder / "unet.pth").unlink()
    return Written("unet")


def _dilated(architecture: str, folder_of_hub: bool = False) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        import segmentation_models_pytorch

        model = randomize(
            getattr(segmentation_models_pytorch, architecture)("resnet50", encoder_weights=None, classes=3)
        )
        if folder_of_hub:
            model.save_pretrained(str(folder / "model"))
            return Written("model")
        torch.save(model.state_dict(), folder / "model.pth")
        return Written("model.pth")

    return write


for _name in ("DeepLabV3", "DeepLabV3Plus", "PAN"):
    for _hub in (False, True):
        register(
            f"smp_{_name.lower()}{'_folder' if _hub else ''}",
            "segmentation_models_pytorch",
            _dilated(_name, _hub),
            expect="reject",
            reason="encoder_output_stride|dilates",
            choice={"branch": "backbone"},
            note="the first block of a dilated stage is dilated too",
        )
