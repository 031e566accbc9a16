"""The settings of `pretrain` and their presets (protocols: docs/protocols.md). Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.architectures import ARCHITECTURES, STEMS
from simsiam_eval.errors import UsageError
from simsiam_eval.settings import Settings, setting

_IMAGENET: dict[str, Any] = {
    "arch": "resnet50",
    "stem": "imagenet",
    "epochs": 100,
    "batch_size": 512,
    "lr": 0.05,
    "weight_decay": 1e-4,
    "fix_pred_lr": False,
    "dim": 2048,
    "pred_dim": 512,
    "projector_layers": 3,
    "projector_hidden": 0,
    "image_size": 224,
    "crop_area": 0.2,
    "jitter": 0.8,
    "jitter_hue": 0.1,
    "greyscale": 0.2,
    "blur": 0.5,
    "flip": 0.5,
    "rotate": 0.0,
    "shift": 0.0,
    "zoom": 0.0,
    "shear": 0.0,
}


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Settings):
    """Pretrain an encoder with SimSiam (Chen and He, arXiv 2011.10566) on unlabelled images."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "imagenet": _IMAGENET,
        "cifar10": _IMAGENET
        | {
            "arch": "resnet18",
            "stem": "cifar",
            "epochs": 800,
            "lr": 0.03,
            "weight_decay": 5e-4,
            "projector_layers": 2,
            "projector_hidden": 2048,
            "image_size": 32,
            "blur": 0.0,
        },
        # Small, grey, and with a right way up: no flips, crops or colours, but what a hand does to a digit. The weight
        # decay makes the collapse without stop-gradient complete in so few steps (5e-4: output std .47, this: .30).
        "digits": _IMAGENET
        | {
            "arch": "resnet18",
            "stem": "cifar",
            "epochs": 9,
            "batch_size": 64,
            "lr": 1.2,
            "weight_decay": 5e-3,
            "fix_pred_lr": True,
            "dim": 512,
            "pred_dim": 128,
            "projector_layers": 2,
            "image_size": 10,
            "crop_area": 1.0,
            "jitter_hue": 0.0,
            "greyscale": 0.0,
            "blur": 0.0,
            "flip": 0.0,
            "rotate": 10.0,
            "shift": 0.1,
            "zoom": 0.1,
            "shear": 5.0,
        },
    }

    data: str = setting(help="Image source, such as folder:PATH, cifar10:PATH, manifest:FILE.csv or digits.")
    out: Path = setting(help="Run folder for checkpoints, log.jsonl and result.json.")
    preset: str = setting("imagenet", choices=tuple(PRESETS), help="Protocol: which recipe the other defaults are of.")
    arch: str = setting(by_preset=True, choices=tuple(ARCHITECTURES), help="Encoder, by torchvision's name.")
    stem: str = setting(by_preset=True, choices=STEMS, help="imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1.")
    epochs: int = setting(
        by_preset=True,
        at_least=0,
        help="Passes over the images; 0 writes the untrained encoder, BN statistics estimated.",
    )
    batch_size: int = setting(by_preset=True, at_least=2, help="Images per step.")
    lr: float = setting(
        by_preset=True, above=0, help="Learning rate per 256 images: the optimiser's is lr x batch / 256."
    )
    momentum: float = setting(0.9, at_least=0, at_most=1, help="Momentum of SGD.")
    weight_decay: float = setting(by_preset=True, at_least=0, help="Of every parameter, BN and bias too.")
    fix_pred_lr: bool = setting(
        by_preset=True, help="Keep the predictor's lr constant (68.1 against 67.7 in the paper)."
    )
    stop_gradient: bool = setting(True, help="The stop-gradient of the method; without it the output collapses.")
    dim: int = setting(by_preset=True, at_least=1, help="Width of the projector's output.")
    pred_dim: int = setting(by_preset=True, at_least=1, help="Hidden width of the predictor.")
    projector_layers: int = setting(by_preset=True, at_least=1, at_most=3, help="Linear layers of the projector.")
    projector_hidden: int = setting(
        by_preset=True, at_least=0, help="Hidden width of the projector; 0: the encoder's feature width."
    )
    image_size: int = setting(by_preset=True, at_least=1, help="Side of a view in pixels.")
    crop_area: float = setting(
        by_preset=True, above=0, at_most=1, help="Smallest share of the area in RandomResizedCrop; 1: no crop, resized."
    )
    jitter: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of colour jitter (.4, .4, .4).")
    jitter_hue: float = setting(by_preset=True, at_least=0, at_most=0.5, help="Hue range of the colour jitter.")
    greyscale: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of greyscale.")
    blur: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of Gaussian blur, radius U(.1, 2).")
    flip: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of a horizontal flip.")
    rotate: float = setting(by_preset=True, at_least=0, at_most=180, help="Rotation up to +- this many degrees.")
    shift: float = setting(by_preset=True, at_least=0, at_most=1, help="Shift up to +- this share of the side.")
    zoom: float = setting(by_preset=True, at_least=0, at_most=0.9, help="Scale by 1 +- up to this.")
    shear: float = setting(by_preset=True, at_least=0, at_most=80, help="Horizontal shear up to +- this many degrees.")
    save_every: int = setting(10, at_least=1, help="Epochs between checkpoints; the last epoch is always kept.")
    workers: int | None = setting(
        None, at_least=0, help="Decoding processes; default: one per core, at most 16, none for images held in memory."
    )
    strict: bool = setting(False, help="Stop at the first unreadable image instead of skipping it by name.")

    def check(self) -> None:
        if self.stem == "imagenet" and self.image_size < 17:
            raise UsageError(f"--image-size {self.image_size} is too small for the ImageNet stem: use --stem cifar.")
