"""The settings of `pretrain` and their presets (docs/protocols.md). Does not import torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import LabelSettings, PrecisionSettings, ProcessSettings, SeedSettings, setting
from simsiam_eval.commands.unreadable import max_unreadable_setting
from simsiam_eval.encoders.architectures import ARCHITECTURES, arch_text
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.pixel_settings import intensity_setting
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.vocabulary import DECODINGS, STEMS, TIMM

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
class PretrainSettings(CheckpointSettings, LabelSettings, ProcessSettings, PrecisionSettings, SeedSettings):
    """Pretrain an encoder with SimSiam (Chen and He, arXiv 2011.10566) on unlabeled images.

    Numbers next to the ablations are the paper's linear accuracies on ImageNet after 100 epochs, in percent.
    """

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
        # Digits are small, gray and upright: no flips, crops or color jitter, but variations as in handwriting. With this
        # weight decay, runs without stop-gradient end below the untrained encoder for most seeds (demo_seeds.md).
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
        # A small network and small views, for a CPU. Frequent grayscale teaches it to ignore the misleading colors.
        "photo-digits": _IMAGENET
        | {
            "arch": "resnet10_x0_5",
            "stem": "cifar",
            "epochs": 15,
            "batch_size": 64,
            "lr": 1.2,
            "weight_decay": 2e-3,
            "predictor": "constant",
            "dim": 256,
            "pred_dim": 64,
            "projector_layers": 2,
            "image_size": 12,
            "crop_area": 0.7,
            "grayscale": 0.8,
            "blur": 0.0,
            "flip": 0.0,
            "knn_k": 20,
            "health_every": 20,
        },
    }
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data val max_unreadable strict",
        "encoder": "arch stem init",
        "method": "predictor stop_gradient loss symmetric dim pred_dim predictor_bn projector_layers projector_hidden "
        "projector_bn",
        "optimization": "epochs batch_size lr momentum weight_decay warmup_epochs accumulate sync_bn",
        "preprocessing": "intensity",
        "augmentation": "image_size crop_area jitter jitter_hue grayscale blur flip rotate shift zoom shear decode",
        "monitoring": "knn_every knn_k knn_temperature health_every on_collapse tensorboard wandb",
        "checkpoints": "out checkpoint_every keep resume",
        "machine": "channels_last fused compile resident workers",
    }
    CHECKPOINT = "init"
    LACKS: ClassVar[dict[str, str]] = {
        "--channels": "pretrain has no --channels: its augmentation changes colors, which only RGB images have."
    }
    ALSO_WITHOUT = frozenset({"arch"})
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--preset cifar10 --data cifar10:data --val cifar10:data#test --out runs/first",
    )

    data: str = setting(
        may_change=True, help="Training images, such as folder:PATH, cifar10:PATH, manifest:FILE.csv or digits."
    )
    out: Path = setting(may_change=True, help="Run folder for checkpoints, log.jsonl and result.json.")
    preset: str = setting("imagenet", choices=tuple(PRESETS), help="Protocol that sets other defaults.")
    arch: str = setting(
        by_preset=True,
        help=f"Encoder architecture: a ResNet ({', '.join(ARCHITECTURES)}), or timm:NAME for any network of "
        "timm (extra `timm`).",
    )
    stem: str = setting(
        by_preset=True,
        choices=STEMS,
        help="Stem of the encoder: imagenet (7x7, stride 2, then max-pooling) or cifar (3x3, stride 1).",
    )
    init: str | None = setting(
        None,
        help="Checkpoint whose encoder the training starts from, of any family that `inspect` recognizes (default: random "
        "weights). Requires its --arch and --stem.",
    )
    epochs: int = setting(
        by_preset=True,
        at_least=0,
        help="Number of epochs; 0 writes the untrained encoder, with estimated BN statistics.",
    )
    batch_size: int = setting(by_preset=True, at_least=2, help="Images per step, over all processes.")
    lr: float = setting(
        by_preset=True, above=0, help="Learning rate per 256 images; the optimizer's is lr x batch / 256."
    )
    momentum: float = setting(0.9, at_least=0, at_most=1, help="Momentum of SGD.")
    weight_decay: float = setting(
        by_preset=True, at_least=0, help="Weight decay of all parameters, including BN and biases."
    )
    warmup_epochs: int = setting(
        0,
        at_least=0,
        help="Epochs of linear learning-rate warm-up, except for the predictor (paper: 10 for batches >= 1024).",
    )
    predictor: str = setting(
        by_preset=True,
        choices=PREDICTORS,
        help="Predictor: none (p = z; 0.1), fixed (random, not trained; 1.5), or trained with a cosine (67.7) or "
        "constant (68.1) learning rate; constant is the reference's --fix-pred-lr.",
    )
    stop_gradient: bool = setting(
        True, help="Stop-gradient on the projections (67.7). Without it the output collapses (0.1)."
    )
    loss: str = setting(
        "cosine",
        choices=("cosine", "cross-entropy"),
        help="Similarity in the loss: cosine (68.1) or cross-entropy (63.2).",
    )
    symmetric: bool = setting(
        True, help="Symmetric loss (68.1). Otherwise only the first view predicts the second (64.8)."
    )
    dim: int = setting(
        by_preset=True, at_least=1, help="Output width of the projector (256: 65.3, 512: 67.2, 1024: 67.5, 2048: 68.1)."
    )
    pred_dim: int = setting(by_preset=True, at_least=1, help="Hidden width of the predictor.")
    predictor_bn: str = setting("hidden", choices=NORMS, help="Predictor layers with BN; all is unstable in the paper.")
    projector_layers: int = setting(
        by_preset=True, at_least=1, at_most=3, help="Number of linear layers of the projector."
    )
    projector_hidden: int = setting(
        by_preset=True, at_least=0, help="Hidden width of the projector (0: the encoder's feature width)."
    )
    projector_bn: str = setting(
        "all", choices=NORMS, help="Projector layers with BN (all: 68.1, hidden: 67.4; no BN in both heads: 34.6)."
    )
    image_size: int = setting(by_preset=True, at_least=1, help="Side of a view, in pixels.")
    crop_area: float = setting(
        by_preset=True,
        above=0,
        at_most=1,
        help="Minimum area of RandomResizedCrop, as a fraction of the image (1: no crop, resize only).",
    )
    jitter: float = setting(
        by_preset=True,
        at_least=0,
        at_most=1,
        help="Probability of color jitter (brightness, contrast and saturation 0.4).",
    )
    jitter_hue: float = setting(by_preset=True, at_least=0, at_most=0.5, help="Hue range of the color jitter.")
    grayscale: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of grayscale.")
    blur: float = setting(
        by_preset=True, at_least=0, at_most=1, help="Probability of Gaussian blur, with a radius from 0.1 to 2 pixels."
    )
    flip: float = setting(by_preset=True, at_least=0, at_most=1, help="Probability of a horizontal flip.")
    rotate: float = setting(by_preset=True, at_least=0, at_most=180, help="Maximum rotation, in degrees.")
    shift: float = setting(by_preset=True, at_least=0, at_most=1, help="Maximum shift, as a fraction of the side.")
    zoom: float = setting(by_preset=True, at_least=0, at_most=0.9, help="Maximum change of scale, as a fraction.")
    shear: float = setting(by_preset=True, at_least=0, at_most=80, help="Maximum horizontal shear, in degrees.")
    val: str | None = setting(
        None,
        may_change=True,
        help="Labeled images for the online kNN, which requires labeled training images too.",
    )
    knn_every: int = setting(10, at_least=1, may_change=True, help="Run the online kNN every N epochs.")
    knn_k: int = setting(by_preset=True, at_least=1, may_change=True, help="Number of neighbors of the online kNN.")
    knn_temperature: float = setting(0.1, above=0, may_change=True, help="Temperature of the online kNN.")
    health_every: int = setting(
        by_preset=True, at_least=0, may_change=True, help="Run the collapse check every N steps (0: off)."
    )
    on_collapse: str = setting(
        "warn", choices=("warn", "stop"), may_change=True, help="Action when the output collapses."
    )
    checkpoint_every: str = setting(
        "10 epochs", may_change=True, help="Checkpoint interval: 'N epochs' or 'N minutes'."
    )
    keep: int = setting(
        2, at_least=0, may_change=True, help="Number of epoch checkpoints to keep, newest first (0: all)."
    )
    resume: str = setting(
        "auto",
        choices=("auto", "never", "must"),
        may_change=True,
        help="auto: resume the run in --out, if any; never: fail if --out contains a run; must: fail if it does not.",
    )
    tensorboard: bool = setting(True, may_change=True, help="Write TensorBoard events to the run folder.")
    wandb: str | None = setting(None, may_change=True, help="Weights & Biases project to log to (extra `wandb`).")
    accumulate: int = setting(
        1, at_least=1, help="Gradient accumulation: compute each batch in N parts, each with its own BN statistics."
    )
    sync_bn: bool = setting(
        True, help="Compute BN statistics over all processes; otherwise over each process's part of the batch."
    )
    channels_last: bool | None = setting(
        None,
        may_change=True,
        help="Channels-last memory format (default: on, except for views of up to 16 pixels on a CPU).",
    )
    fused: bool | None = setting(None, may_change=True, help="Fused optimizer step (default: on CUDA).")
    compile: str = setting(
        "off",
        choices=("off", "on", "cuda-graphs"),
        may_change=True,
        help="Use torch.compile for the model and, on a GPU, the views; cuda-graphs is fastest for small images.",
    )
    resident: bool | None = setting(
        None, help="Keep all images on the device and crop there (default: if they have one size and take up to 1 GiB)."
    )
    decode: str = setting(
        "full",
        choices=DECODINGS,
        help="JPEG decoding: full, or scaled (JPEGs much larger than their crops are decoded at 1/2, 1/4 or 1/8 of their "
        "size; faster).",
    )
    workers: int | None = setting(
        None,
        at_least=0,
        may_change=True,
        help="Number of decoding processes (default: one per core, at most 16; none for images in memory).",
    )
    intensity: str = intensity_setting()
    max_unreadable: float = max_unreadable_setting(may_change=True)
    strict: bool = setting(
        False, may_change=True, help="Stop at the first unreadable image instead of skipping it with a message."
    )

    def check(self) -> None:
        super().check()
        Intensity.parse(self.intensity)
        if self.arch not in ARCHITECTURES and not self.arch.startswith(TIMM):
            raise UsageError(f"--arch must be one of {', '.join(ARCHITECTURES)}, or timm:NAME, got {self.arch!r}.")
        if self.trunk_stem() == "imagenet" and self.image_size < 17:
            raise UsageError(
                f"--image-size {self.image_size} is too small for the ImageNet stem (minimum 17): use --stem cifar."
            )
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"--batch-size {self.batch_size} cannot be divided into --accumulate {self.accumulate} equal parts."
            )
        if self.compile == "cuda-graphs" and self.accumulate > 1:
            raise UsageError(
                "--compile cuda-graphs cannot be used with --accumulate: a graph's memory holds the gradients of one part."
            )
        if self.on_collapse == "stop" and not self.health_every:
            raise UsageError("--on-collapse stop requires the collapse check: set --health-every above 0.")
        if self.val is None:
            self.reject_given(("knn_every", "knn_k", "knn_temperature"), "requires --val")
        if self.predictor == "none":
            self.reject_given(("pred_dim", "predictor_bn"), "cannot be used with --predictor none")
        if self.warmup_epochs > self.epochs:
            raise UsageError(f"--warmup-epochs {self.warmup_epochs} must not exceed --epochs {self.epochs}.")
        if self.trunk_stem() is None:
            self.reject_given(("stem",), f"cannot be used with --arch {self.arch}")
        self.save_interval()

    def trunk_stem(self) -> str | None:
        """The stem of a ResNet of torchvision; None for networks of timm, which have their own."""
        return None if self.arch.startswith(TIMM) else self.stem

    def encoder_name(self) -> str:
        """The architecture for a title."""
        return arch_text(self.arch, self.trunk_stem())

    def save_interval(self) -> tuple[int, str]:
        """`checkpoint_every` as a number of `epochs` or `minutes`."""
        match = re.fullmatch(r"\s*([1-9][0-9]*)\s*(epoch|minute)s?\s*", self.checkpoint_every)
        if not match:
            raise UsageError(
                f"--checkpoint-every must be like '10 epochs' or '15 minutes', got {self.checkpoint_every!r}."
            )
        return int(match[1]), match[2] + "s"
