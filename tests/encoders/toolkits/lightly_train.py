"""What lightly-train writes: the checkpoint of a run, and its exports."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.encoders.cases import Written, register
from tests.encoders.toolkits.trunks import maps

CHECKPOINT = "run/checkpoints/last.ckpt"


def _randomize(path: Path) -> None:
    """Random batch normalization in the state dict of a checkpoint, in place: the modules beside it share its storage."""
    content = torch.load(path, weights_only=False)
    state_dict = content["state_dict"]
    for key in list(state_dict):
        if key.endswith("running_var"):
            stem = key.removesuffix("running_var")
            for name in ("running_var", "weight"):
                state_dict[stem + name].detach().uniform_(0.5, 1.5)
            for name in ("running_mean", "bias"):
                state_dict[stem + name].detach().normal_(0, 0.3)
    torch.save(content, path)


def _train(folder: Path, model: str, method: str) -> None:
    """One short epoch on noise."""
    import lightly_train
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    for index in range(4):
        noise = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{index}.png")
    lightly_train.pretrain(
        out=str(folder / "run"),
        data=str(images),
        model=model,
        method=method,
        epochs=1,
        batch_size=4,
        num_workers=0,
        accelerator="cpu",
        embed_dim=64,
        transform_args={"image_size": (64, 64)},
    )
    for path in images.iterdir():
        path.unlink()
    images.rmdir()
    for path in (folder / "run").glob("events*"):
        path.unlink()
    for path in (folder / "run" / "checkpoints").glob("epoch*"):
        path.unlink()


def _export(folder: Path, name: str, **options: Any) -> Path:
    """lightly_train.export of the run's checkpoint."""
    import lightly_train

    path = folder / name
    lightly_train.export(out=str(path), checkpoint=str(folder / CHECKPOINT), **options)
    return path


def _network(model: str) -> nn.Module:
    """torchvision's or timm's network, as lightly-train's instructions build it for an exported file."""
    library, name = model.split("/")
    if library == "timm":
        import timm

        return timm.create_model(name, pretrained=False).eval()
    from torchvision.models import get_model

    return get_model(name, weights=None).eval()


def _written(model: str, method: str, kept: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        _train(folder, model, method)
        _randomize(folder / CHECKPOINT)
        exported = _export(folder, "exported.pt", part="model", format="torch_state_dict")
        network = _network(model)
        network.load_state_dict(torch.load(exported), strict=False)
        if kept == "torch_model":
            exported.unlink()
            _export(folder, "exported.pt", part="model", format="torch_model")
        if kept == "embedding":
            exported.unlink()
            _export(folder, "exported.pt", part="embedding_model", format="torch_model")
        if kept == "checkpoint":
            exported.unlink()
        else:
            shutil.rmtree(folder / "run")
        file = CHECKPOINT if kept == "checkpoint" else "exported.pt"
        return Written(file, network.forward_features if model.startswith("timm") else maps(network))

    return write


for _model, _method, _kept in (
    ("torchvision/resnet18", "simclr", "checkpoint"),
    ("torchvision/resnet18", "simclr", "state_dict"),
    ("torchvision/resnet18", "simclr", "torch_model"),
    ("torchvision/resnet18", "simclr", "embedding"),
    ("timm/resnet18", "simclr", "checkpoint"),
    ("timm/resnet18", "simclr", "state_dict"),
):
    register(
        f"lightly_train_{_model.replace('/', '_')}_{_kept}",
        "lightly_train timm" if _model.startswith("timm") else "lightly_train",
        _written(_model, _method, _kept),
        arch="resnet18",
        stem="imagenet",
        **({"family": "lightly-train"} if _kept == "checkpoint" else {}),
        note="the checkpoint of the run" if _kept == "checkpoint" else f"export: {_kept}",
    )
register(
    "lightly_train_dino",
    "lightly_train",
    _written("torchvision/resnet18", "dino", "checkpoint"),
    arch="resnet18",
    stem="imagenet",
    choice={"branch": "teacher"},
    note="teacher and student; the export is the teacher",
)
