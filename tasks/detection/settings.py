"""The settings of `detect` and their presets (protocols: docs/detection.md). Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import PrecisionSettings, ProcessSettings, SeedSettings, setting
from simsiam_eval.encoders.architectures import ARCHITECTURES
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import STEMS

BACKENDS = ("detectron2", "torchvision")

_SIZES = tuple(range(480, 801, 32))
_VOC = {"heads": "c4", "masks": False, "metric": "voc07", "batch": 16, "min_sizes": _SIZES, "test_size": 800,
        "max_size": 1333}  # fmt: skip
_COCO = _VOC | {"masks": True, "metric": "coco", "min_sizes": (640, 672, 704, 736, 768, 800)}

# What the linear rule starts from: preset -> (batch, lr, iterations, lr steps, warm-up). VOC07's steps are the shares that
# VOC07+12's have of its iterations: only its 9000 iterations are published.
SCHEDULES: dict[str, tuple[int, float, int, tuple[int, ...], int]] = {
    "voc07": (16, 0.02, 9_000, (6_750, 8_250), 100),
    "voc0712": (16, 0.02, 24_000, (18_000, 22_000), 100),
    "coco-1x": (16, 0.02, 90_000, (60_000, 80_000), 1_000),
    "coco-2x": (16, 0.02, 180_000, (120_000, 160_000), 1_000),
    "quick": (4, 0.01, 1_000, (750, 920), 100),
}

# Of every protocol: regions an image that the heads learn from, and batches for the BN statistics after training.
REGIONS, BN_BATCHES = 512, 200


def schedule_name(preset: str) -> str:
    """The row of SCHEDULES of a preset: with other heads the schedule is the same.

    >>> schedule_name("coco-1x-fpn")
    'coco-1x'
    """
    return preset.removesuffix("-fpn")


@dataclass(frozen=True, kw_only=True)
class DetectSettings(ProcessSettings, PrecisionSettings, SeedSettings):
    """Fine-tune a detector (Faster or Mask R-CNN) from an encoder, and report AP, AP50 and AP75."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "voc07": _VOC,
        "voc0712": _VOC,
        "coco-1x": _COCO,
        "coco-2x": _COCO,
        "voc07-fpn": _VOC | {"heads": "fpn"},
        "voc0712-fpn": _VOC | {"heads": "fpn"},
        "coco-1x-fpn": _COCO | {"heads": "fpn"},
        "coco-2x-fpn": _COCO | {"heads": "fpn"},
        # For small sets of one's own: an afternoon on a small GPU, an evening on a CPU.
        "quick": _VOC
        | {
            "heads": "fpn",
            "metric": "coco",
            "batch": 4,
            "min_sizes": (320, 352, 384),
            "test_size": 384,
            "max_size": 640,
        },
    }
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "train test classes",
        "encoder": "checkpoint init arch stem",
        "method": "backend heads masks rois proposals precise_bn",
        "optimization": "batch lr iterations steps warmup",
        "evaluation": "trials metric",
        "preprocessing": "min_sizes test_size max_size",
        "checkpoints": "out checkpoint_every resume",
        "machine": "workers",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--checkpoint checkpoint.pth.tar --train voc:VOC2007#trainval --test voc:VOC2007#test --out runs/voc",
    )

    train: tuple[str, ...] = setting(
        help="Training set: voc:FOLDER#LIST, coco:FOLDER#SPLIT or coco:FILE.json#images=FOLDER; several are joined."
    )
    test: str = setting(help="Test set, in the same forms.")
    out: Path = setting(may_change=True, help="Run folder for checkpoints, detections, the picture and result.json.")
    preset: str = setting("quick", choices=tuple(PRESETS), help="Protocol: which recipe the other defaults are of.")
    checkpoint: Path | None = setting(None, help="Encoder to start from, of any family that `inspect` knows.")
    init: tuple[str, ...] | None = setting(
        None,
        help="Further starts, run in the same way and put beside it: random, or another checkpoint, perhaps with a name for "
        "its row (supervised=FILE).",
    )
    trials: int = setting(1, at_least=1, may_change=True, help="Runs of each start, with seeds from --seed upwards.")
    backend: str = setting(
        "auto",
        choices=("auto", *BACKENDS),
        help="auto: detectron2, the reference protocol, where it can be imported, else torchvision.",
    )
    arch: str = setting(
        "resnet50", choices=tuple(ARCHITECTURES), help="Encoder of --init random where no checkpoint says another."
    )
    stem: str = setting("imagenet", choices=STEMS, help="Stem of that encoder.")
    classes: tuple[str, ...] | None = setting(
        None, help="Only these classes, in this order; default: all of the training set."
    )
    heads: str = setting(
        by_preset=True, choices=("c4", "fpn"), help="c4: the fourth stage per region, BN after it; fpn: a pyramid."
    )
    masks: bool = setting(by_preset=True, help="Mask R-CNN: segmentations are learned and evaluated too (COCO).")
    metric: str = setting(
        by_preset=True, choices=("voc07", "voc", "coco"), help="AP by VOC's 11 points, by VOC's area, or COCO's."
    )
    batch: int = setting(
        by_preset=True, at_least=1, help="Images a step, of all processes together; the schedule follows (linear rule)."
    )
    lr: float | None = setting(None, above=0, help="Learning rate; default: the preset's x batch / its batch.")
    iterations: int | None = setting(None, at_least=1, help="Steps; default: the preset's x its batch / batch.")
    steps: tuple[int, ...] | None = setting(
        None, at_least=1, help="Where the learning rate falls to a tenth; default: where the preset's does."
    )
    warmup: int | None = setting(None, at_least=0, help="Steps of linear warm-up; default: the preset's, rescaled.")
    min_sizes: tuple[int, ...] = setting(
        by_preset=True, at_least=32, help="Short sides in pixels, of which training draws one for each image."
    )
    test_size: int = setting(by_preset=True, at_least=32, help="Short side of test images in pixels.")
    max_size: int = setting(by_preset=True, at_least=32, help="Longest side in pixels.")
    rois: int | None = setting(
        None, at_least=1, help="Regions an image in training; default: 512, on a CPU 32 (c4) or 64 (fpn)."
    )
    proposals: int | None = setting(
        None,
        at_least=1,
        help="Proposals an image; default: 2000 (c4) or 1000 in training, 1000 in tests; on a CPU 100.",
    )
    precise_bn: int | None = setting(
        None, at_least=0, help="Batches for the BN statistics after training; default: 200, on a CPU 20."
    )
    checkpoint_every: int = setting(1000, at_least=1, may_change=True, help="Steps between two checkpoints.")
    resume: str = setting(
        "auto", choices=("auto", "never"), may_change=True, help="auto: go on with the run in --out; never: refuse it."
    )
    workers: int | None = setting(
        None, at_least=0, may_change=True, help="Decoding processes; default: one per core, at most 16."
    )

    def check(self) -> None:
        if self.checkpoint is None and not self.init:
            raise UsageError("Give an encoder with --checkpoint, or --init random.")
        for name in self.classes or ():
            if (self.classes or ()).count(name) > 1:
                raise UsageError(f"--classes {name} is given twice: name each class once.")
        if self.steps and list(self.steps) != sorted(set(self.steps)):
            raise UsageError(f"--steps {' '.join(map(str, self.steps))} must rise: give them in order, each once.")
        if self.masks and self.metric != "coco":
            raise UsageError(f"--masks needs --metric coco: {self.metric} knows boxes only.")
        if max(*self.min_sizes, self.test_size) > self.max_size:
            raise UsageError(f"--max-size {self.max_size} is below the short side of images: give a larger one.")
        self.check_parts(self.num_gpus or 1)

    def changed(self) -> list[str]:
        """As Settings'; a schedule, regions and classes that are given, and are not the protocol's, too."""
        _, lr, iterations, steps, warmup = SCHEDULES[schedule_name(self.preset)]
        own: dict[str, Any] = {"lr": lr, "iterations": iterations, "steps": steps, "warmup": warmup, "classes": None}
        own |= {"rois": REGIONS, "precise_bn": BN_BATCHES}
        own["proposals"] = 1000 if self.heads == "fpn" else None  # C4 has two numbers, which one option cannot say
        return [*super().changed(), *(name for name, value in own.items() if getattr(self, name) not in (None, value))]

    def check_parts(self, processes: int) -> None:
        """Raises UsageError where the processes cannot have equal parts of a batch."""
        if self.batch % processes:
            raise UsageError(
                f"--batch {self.batch} cannot be cut into equal parts for {processes} processes: give a multiple."
            )
