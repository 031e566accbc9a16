"""Files of torchvision's reference scripts: classification, detection, segmentation, quantization."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tests.encoders.cases import Written, case, randomize, register
from tests.encoders.toolkits.trunks import maps, network


def _classification(arch: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        model = network(arch)
        torch.save(model.state_dict(), folder / f"{arch}.pth")
        return Written(f"{arch}.pth", maps(model))

    return write


for _arch in ("resnet18", "resnet34", "resnet50", "resnext50_32x4d"):
    register(
        f"torchvision_{_arch}", "torchvision", _classification(_arch), family="torchvision", arch=_arch, stem="imagenet"
    )
register("torchvision_mobilenet_v3", "torchvision", _classification("mobilenet_v3_small"), expect="reject")
register("torchvision_squeezenet", "torchvision", _classification("squeezenet1_1"), expect="reject")


@case("torchvision", family="torchvision", arch="resnet18", stem="imagenet", note="references/classification/train.py")
def torchvision_reference_training(folder: Path) -> Written:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        "epoch": 89,
        "args": argparse.Namespace(data_path="/data", model="resnet18", device="cuda"),
    }
    torch.save(content, folder / "checkpoint.pth")
    return Written("checkpoint.pth", maps(model))


def _ema(branch: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        model = network()
        average = randomize(torch.optim.swa_utils.AveragedModel(model, use_buffers=True))
        content = {"model": model.state_dict(), "model_ema": average.state_dict(), "epoch": 5}
        torch.save(content, folder / "checkpoint.pth")
        return Written("checkpoint.pth", maps(average.module if branch == "ema" else model))

    return write


register("torchvision_model_and_ema", "torchvision", _ema("model"), arch="resnet18", note="model of two is taken")
register("torchvision_model_ema", "torchvision", _ema("ema"), arch="resnet18", choice={"branch": "ema"})


def _detector(name: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        from torchvision.models import get_model

        model = randomize(get_model(name, weights=None, weights_backbone=None, num_classes=3))
        torch.save({"model": model.state_dict(), "epoch": 25}, folder / "model_25.pth")
        return Written("model_25.pth", lambda images: list(model.backbone.body(images).values())[-1])

    return write


def _segmenter(name: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        from torchvision.models import get_model

        model = randomize(get_model(name, weights=None, weights_backbone=None, num_classes=3, aux_loss=True))
        torch.save({"model": model.state_dict(), "epoch": 25}, folder / "model_25.pth")
        return Written("model_25.pth", lambda images: model.backbone(images)["out"])

    return write


for _name in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"):
    register(f"torchvision_{_name}", "torchvision", _detector(_name), expect="reject", reason="branch")
    register(
        f"torchvision_{_name}_branch",
        "torchvision",
        _detector(_name),
        arch="resnet50",
        stem="imagenet",
        choice={"branch": "backbone"},
        note="frozen batch normalization",
    )
for _name in ("fcn_resnet50", "deeplabv3_resnet50"):
    register(f"torchvision_{_name}", "torchvision", _segmenter(_name), expect="reject", reason="branch")
    register(
        f"torchvision_{_name}_branch",
        "torchvision",
        _segmenter(_name),
        expect="assume",
        choice={"branch": "backbone"},
        note="layer3 and layer4 are dilated there; the file does not say so",
    )


@case("torchvision", arch="resnet18", stem="imagenet", note="quantizable, not quantized")
def torchvision_quantizable(folder: Path) -> Written:
    from torchvision.models import quantization

    model = randomize(quantization.resnet18(weights=None, quantize=False))
    torch.save(model.state_dict(), folder / "quantizable.pth")
    return Written("quantizable.pth", maps(model))


def _quantized(model: torch.nn.Module) -> torch.nn.Module:
    from torch.ao import quantization

    torch.backends.quantized.engine = "fbgemm"
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.prepare(model, inplace=True)
        model(torch.randn(2, 3, 64, 64))
        return quantization.convert(model)


@case("torchvision", expect="reject", reason="(?i)quanti")
def torchvision_quantized(folder: Path) -> Written:
    from torchvision.models import quantization

    model = randomize(quantization.resnet18(weights=None, quantize=False))
    model.fuse_model()
    torch.save(_quantized(model).state_dict(), folder / "quantized.pth")
    return Written("quantized.pth")


@case("torch", expect="reject", reason="(?i)quanti|int8")
def torch_int8_weights(folder: Path) -> Written:
    """Symmetric int8 weights with a scale each, as home-made quantizers save them."""
    state_dict: dict[str, Tensor] = {}
    for key, value in network().state_dict().items():
        if value.ndim == 4:
            scale = value.abs().max() / 127
            state_dict |= {key: (value / scale).round().to(torch.int8), f"{key}_scale": scale}
        else:
            state_dict[key] = value
    torch.save(state_dict, folder / "int8.pth")
    return Written("int8.pth")
