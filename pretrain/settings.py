"""The settings of `pretrain` and their presets (protocols: docs/protocols.md). Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import PrecisionSettings, ProcessSettings, SeedSettings, setting
from simsiam_eval.encoders.architectures import ARCHITECTURES
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import DECODINGS, STEMS

PREDICTORS = ("none", "fixed", "cosine", "constant")
NORMS = ("none", "hidden", "all")

_IMAGENET: dict[str, Any] = {
    "arch": "resnet50",
    "stem": "imagenet",
    "epochs": 100,
    "batch_size": 512,
    "lr": 0.05,
    "weight_decay": 1e-4,
    "predictor": "cosine",
    "dim": 2048,
    "pred_dim": 512,
    "projector_layers": 3,
    "projector_hidden": 0,
    "image_size": 224,
    "crop_area": 0.2,
    "jitter": 0.8,
    "jitter_hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.5,
    "flip": 0.5,
    "rotate": 0.0,
    "shift": 0.0,
    "zoom": 0.0,
    "shear": 0.0,
    "knn_k": 200,
    "health_every": 200,
}


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(ProcessSettings, PrecisionSettings, SeedSettings):
    """Pretrain an encoder with SimSiam (Chen and He, arXiv 2011.10566) on unlabeled images."""

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
        # Small, gray, and with a right way up: no flips, crops or colors, but what a hand does to a digit. Under this
        # weight decay the run without stop-gradient ends below the untrained encoder for most seeds (demo_seeds.md).
        "digits": _IMAGENET
        | {
            "arch": "resnet18",
            "stem": "cifar",
            "epochs": 9,
            "batch_size": 64,
            "lr": 1.2,
            "weight_decay": 5e-3,
            "predictor": "constant",
            "dim": 512,
            "pred_dim": 128,
            "projector_layers": 2,
            "image_size": 10,
            "crop_area": 1.0,
            "jitter_hue": 0.0,
            "grayscale": 0.0,
            "blur": 0.0,
            "flip": 0.0,
            "rotate": 10.0,
            "shift": 0.1,
            "zoom": 0.1,
            "shear": 5.0,
            "knn_k": 20,
            "health_every": 10,
        },
    }
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data val strict",
        "encoder": "arch stem",
        "method": "predictor stop_gradient loss symmetric dim pred_dim predictor_bn projector_layers projector_hidden "
        "projector_bn",
        "optimization": "epochs batch_size lr momentum weight_decay warmup_epochs accumulate sync_bn",
        "augmentation": "image_size crop_area jitter jitter_hue grayscale blur flip rotate shift zoom shear decode",
        "monitoring": "knn_every knn_k knn_temperature health_every on_collapse tensorboard wandb",
        "checkpoints": "out every keep resume",
        "machine": "channels_last fused compile resident workers",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--preset cifar10 --data cifar10:data --val cifar10:data#test --out runs/first",
    )

    data: str = setting(
        may_change=True, help="Image source, such as folder:PATH, cifar10:PATH, manifest:FILE.csv or digits."
    )
    out: Path = setting(may_change=True, help="Run folder for checkpoints, log.jsonl and result.json.")
    preset: str = setting("imagenet", choices=tuple(PRESETS), help="Protocol: which recipe the other defaults are of.")
    arch: str = setting(by_preset=True, choices=tuple(ARCHITECTURES), help="Encoder, by torchvision's name.")
    stem: str = setting(by_preset=True, choices=STEMS, help="imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1.")
    epochs: int = setting(
        by_preset=True,
        at_least=0,
        help="Passes over the images; 0 writes the untrained encoder, BN statistics estimated.",
    )
    batch_size: int = setting(by_preset=True, at_least=2, help="Images per step, of all processes together.")
    lr: float = setting(
        by_preset=True, above=0, help="Learning rate per 256 images: the optimizer's is lr x batch / 256."
    )
    momentum: float = setting(0.9, at_least=0, at_most=1, help="Momentum of SGD.")
    weight_decay: float = setting(by_preset=True, at_least=0, help="Of every parameter, BN and bias too.")
    warmup_epochs: int = setting(
        0, at_least=0, help="Epochs of linear warm-up, the predictor's lr without (paper: 10 for batches >= 1024)."
    )
    predictor: str = setting(
        by_preset=True,
        choices=PREDICTORS,
        help="none: p = z (0.1); fixed: random, never trained (1.5); its lr cosine (67.7) or constant (68.1), "
        "the reference's --fix-pred-lr.",
    )
    stop_gradient: bool = setting(
        True, help="The stop-gradient of the method (67.7); without it the output collapses (0.1)."
    )
    loss: str = setting(
        "cosine", choices=("cosine", "cross-entropy"), help="Similarity: cosine 68.1, cross-entropy 63.2."
    )
    symmetric: bool = setting(True, help="Both views predict the other (68.1), or the first alone the second (64.8).")
    dim: int = setting(
        by_preset=True, at_least=1, help="Width of the projector's output (256 65.3, 512 67.2, 1024 67.5, 2048 68.1)."
    )
    pred_dim: int = setting(by_preset=True, at_least=1, help="Hidden width of the predictor.")
    predictor_bn: str = setting("hidden", choices=NORMS, help="BN of the predictor; all: unstable in the paper.")
    projector_layers: int = setting(by_preset=True, at_least=1, at_most=3, help="Linear layers of the projector.")
    projector_hidden: int = setting(
        by_preset=True, at_least=0, help="Hidden width of the projector; 0: the encoder's feature width."
    )
    projector_bn: str = setting(
        "all", choices=NORMS, help="BN of the projector: all 68.1; hidden 67.4; none, in the predictor too, 34.6."
    )
    image_size: int = setting(by_preset=True, at_least=1, help="Side of a view in pixels.")
    crop_area: float = setting(
        by_preset=True, above=0, at_most=1, help="Smallest share of the area in RandomResizedCrop; 1: no crop, resized."
    )
    jitter: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of color jitter (.4, .4, .4).")
    jitter_hue: float = setting(by_preset=True, at_least=0, at_most=0.5, help="Hue range of the color jitter.")
    grayscale: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of grayscale.")
    blur: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of Gaussian blur, radius U(.1, 2).")
    flip: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of a horizontal flip.")
    rotate: float = setting(by_preset=True, at_least=0, at_most=180, help="Rotation up to +- this many degrees.")
    shift: float = setting(by_preset=True, at_least=0, at_most=1, help="Shift up to +- this share of the side.")
    zoom: float = setting(by_preset=True, at_least=0, at_most=0.9, help="Scale by 1 +- up to this.")
    shear: float = setting(by_preset=True, at_least=0, at_most=80, help="Horizontal shear up to +- this many degrees.")
    val: str | None = setting(
        None, may_change=True, help="Labeled images for the online kNN, with --data as its bank (labeled too)."
    )
    knn_every: int = setting(
        10, at_least=1, may_change=True, help="Epochs between two online kNN evaluations, where there is --val."
    )
    knn_k: int = setting(by_preset=True, at_least=1, may_change=True, help="Neighbors of the online kNN.")
    knn_temperature: float = setting(0.1, above=0, may_change=True, help="Temperature of the online kNN.")
    health_every: int = setting(
        by_preset=True, at_least=0, may_change=True, help="Steps between two looks of the collapse doctor; 0: none."
    )
    on_collapse: str = setting("warn", choices=("warn", "stop"), may_change=True, help="What to do about a collapse.")
    every: str = setting(
        "10 epochs", may_change=True, help="How often a checkpoint is written: 'N epochs' or 'N minutes'."
    )
    keep: int = setting(
        2, at_least=0, may_change=True, help="Checkpoints of ends of epochs that are kept, newest first; 0: all."
    )
    resume: str = setting(
        "auto",
        choices=("auto", "never", "must"),
        may_change=True,
        help="auto: go on with the run in --out, where there is one; never: refuse it; must: refuse an empty folder.",
    )
    tensorboard: bool = setting(True, may_change=True, help="Write TensorBoard events beside log.jsonl.")
    wandb: str | None = setting(
        None, may_change=True, help="Also log to this Weights & Biases project (extra `wandb`)."
    )
    accumulate: int = setting(
        1, at_least=1, help="Parts of a batch that are computed one after the other; each has its own BN statistics."
    )
    sync_bn: bool = setting(True, help="BN statistics over all processes, under torchrun; else over each one's part.")
    channels_last: bool | None = setting(
        None,
        may_change=True,
        help="Memory format of the convolutions; default: on, but for views of up to 16 pixels on a CPU (slower there).",
    )
    fused: bool | None = setting(None, may_change=True, help="The optimizer's step as one kernel; default: on CUDA.")
    compile: str = setting(
        "off",
        choices=("off", "on", "cuda-graphs"),
        may_change=True,
        help="torch.compile of the model and, on a GPU, of the views; cuda-graphs: for small images.",
    )
    resident: bool | None = setting(
        None, help="Keep all pixels on the device and crop there; default: for images of one size up to 1 GiB."
    )
    decode: str = setting(
        "full",
        choices=DECODINGS,
        help="full, or scaled: JPEGs much larger than their crops are decoded to a half, quarter or eighth of their sides.",
    )
    workers: int | None = setting(
        None,
        at_least=0,
        may_change=True,
        help="Decoding processes; default: one per core, at most 16, none for images held in memory.",
    )
    strict: bool = setting(
        False, may_change=True, help="Stop at the first unreadable image instead of skipping it by name."
    )

    def check(self) -> None:
        if self.stem == "imagenet" and self.image_size < 17:
            raise UsageError(f"--image-size {self.image_size} is too small for the ImageNet stem: use --stem cifar.")
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"--batch-size {self.batch_size} cannot be cut into --accumulate {self.accumulate} equal parts."
            )
        if self.compile == "cuda-graphs" and self.accumulate > 1:
            raise UsageError(
                "--compile cuda-graphs is not for --accumulate: a graph's memory holds the gradients of one part only."
            )
        if self.on_collapse == "stop" and not self.health_every:
            raise UsageError("--on-collapse stop needs looks of the collapse doctor: give --health-every above 0.")
        if self.val is None:
            self.reject_given(("knn_every", "knn_k", "knn_temperature"), "is of the online kNN: give --val")
        if self.predictor == "none":
            self.reject_given(("pred_dim", "predictor_bn"), "is of the predictor, and --predictor is none")
        if self.warmup_epochs > self.epochs:
            raise UsageError(f"--warmup-epochs {self.warmup_epochs} are more than the {self.epochs} --epochs.")
        self.save_interval()

    def save_interval(self) -> tuple[int, str]:
        """`every` as a number of `epochs` or `minutes`."""
        match = re.fullmatch(r"\s*([1-9][0-9]*)\s*(epoch|minute)s?\s*", self.every)
        if not match:
            raise UsageError(f"--every must be like '10 epochs' or '15 minutes', got {self.every!r}.")
        return int(match[1]), match[2] + "s"
