"""The settings of `detect`. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import PrecisionSettings, ProcessSettings, SeedSettings, setting
from simsiam_eval.encoders.architectures import ARCHITECTURES
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.pixel_settings import NormalizationSettings, intensity_setting
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.vocabulary import STEMS
from tasks.detection.detector_spec import BN_BATCHES, ROIS
from tasks.detection.initialization import RANDOM
from tasks.detection.presets import PRESETS, preset_schedule

BACKENDS = ("detectron2", "torchvision")


@dataclass(frozen=True, kw_only=True)
class DetectSettings(CheckpointSettings, NormalizationSettings, ProcessSettings, PrecisionSettings, SeedSettings):
    """Fine-tune a detector (Faster or Mask R-CNN) from an encoder, and report AP, AP50 and AP75."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "train test classes",
        "encoder": "checkpoint init stem arch",
        "method": "backend heads masks rois proposals precise_bn",
        "optimization": "batch_size lr iterations steps warmup",
        "evaluation": "trials metric",
        "preprocessing": "min_sizes test_size max_size intensity",
        "checkpoints": "out checkpoint_every resume",
        "machine": "workers",
    }
    ALSO_WITHOUT = frozenset({"arch"})
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--checkpoint checkpoint.pth.tar --train voc:VOC2007#trainval --test voc:VOC2007#test --out runs/voc",
    )

    train: tuple[str, ...] = setting(
        help="Training set: voc:FOLDER#LIST, coco:FOLDER#SPLIT or coco:FILE.json#images=FOLDER; may be "
        "repeated, and the sets are joined."
    )
    test: str = setting(help="Test set, specified like --train.")
    out: Path = setting(may_change=True, help="Run folder for checkpoints, detections, pictures and result.json.")
    preset: str = setting("quick", choices=tuple(PRESETS), help="Protocol that sets other defaults.")
    checkpoint: str | None = setting(None, help="Checkpoint of the encoder to fine-tune.")
    init: tuple[str, ...] | None = setting(
        None,
        help="Another initialization to compare with: random, or a checkpoint as FILE or NAME=FILE (NAME is shown in the "
        "table); may be repeated.",
    )
    trials: int = setting(
        1, at_least=1, may_change=True, help="Number of runs per initialization, with seeds starting at --seed."
    )
    backend: str = setting(
        "auto",
        choices=("auto", *BACKENDS),
        help="Detection library: auto (detectron2 if installed, else torchvision), detectron2 (the reference protocol) or "
        "torchvision.",
    )
    arch: str | None = setting(
        None,
        help="Architecture of checkpoints whose shapes fit several, or for --init random if no checkpoint is given "
        "(default: resnet50).",
    )
    stem: str = setting("imagenet", choices=STEMS, help="Stem for --init random if no checkpoint is given.")
    classes: tuple[str, ...] | None = setting(
        None,
        help="Class to detect; repeated for several, in this order (default: all classes of the training set).",
    )
    heads: str = setting(
        by_preset=True,
        choices=("c4", "fpn"),
        help="Detection heads: c4 (the fourth stage on every region, then BN) or fpn (a feature pyramid).",
    )
    masks: bool = setting(by_preset=True, help="Mask R-CNN: train and evaluate segmentations too (COCO only).")
    metric: str = setting(
        by_preset=True,
        choices=("voc07", "voc", "coco"),
        help="Average precision: voc07 (VOC 2007, 11 points), voc (VOC since 2010, area under the curve) or coco.",
    )
    batch_size: int = setting(
        by_preset=True,
        at_least=1,
        help="Images per iteration, over all processes; the schedule is adapted by the linear scaling rule.",
    )
    lr: float | None = setting(None, above=0, help="Learning rate (default: the preset's, scaled with the batch size).")
    iterations: int | None = setting(
        None, at_least=1, help="Training iterations (default: the preset's, scaled inversely with the batch size)."
    )
    steps: tuple[int, ...] | None = setting(
        None,
        at_least=1,
        help="Iterations at which the learning rate is multiplied by 0.1 (default: the preset's, rescaled).",
    )
    warmup: int | None = setting(
        None, at_least=0, help="Iterations of linear warm-up (default: the preset's, rescaled)."
    )
    min_sizes: tuple[int, ...] = setting(
        by_preset=True, at_least=32, help="Short sides of training images in pixels, drawn at random for each image."
    )
    test_size: int = setting(by_preset=True, at_least=32, help="Short side of test images in pixels.")
    max_size: int = setting(by_preset=True, at_least=32, help="Maximum long side of images in pixels.")
    intensity: str = intensity_setting()
    rois: int | None = setting(
        None,
        at_least=1,
        help="Regions of interest per image to train the heads on (default: 512; on a CPU 32 for c4, 64 for fpn).",
    )
    proposals: int | None = setting(
        None,
        at_least=1,
        help="Proposals per image (default: in training 2000 for c4 and 1000 for fpn, in tests 1000; on a CPU 100).",
    )
    precise_bn: int | None = setting(
        None,
        at_least=0,
        help="Batches for estimating the BN statistics after training (default: 200; on a CPU 20).",
    )
    checkpoint_every: int = setting(1000, at_least=1, may_change=True, help="Iterations between checkpoints.")
    resume: str = setting(
        "auto",
        choices=("auto", "never"),
        may_change=True,
        help="auto: resume the run in --out, if any; never: fail if --out contains a run.",
    )
    workers: int | None = setting(
        None,
        at_least=0,
        may_change=True,
        help="Number of decoding processes (default: one per core, at most 16).",
    )

    def check(self) -> None:
        super().check()
        Intensity.parse(self.intensity)
        if self.checkpoint is None and not self.init:
            raise UsageError("An encoder is required; give --checkpoint or --init random.")
        if not self.loads_checkpoint() and self.random_arch not in ARCHITECTURES:
            raise UsageError(f"--arch must be one of {', '.join(ARCHITECTURES)}, got {self.random_arch!r}.")
        if not self.loads_checkpoint():
            self.reject_given(("mean", "std"), "requires --checkpoint")
        for name in self.classes or ():
            if (self.classes or ()).count(name) > 1:
                raise UsageError(f"--classes {name} is given twice; name each class once.")
        if self.steps and list(self.steps) != sorted(set(self.steps)):
            raise UsageError(f"--steps must be in increasing order, got {' '.join(map(str, self.steps))}.")
        if self.masks and self.metric != "coco":
            raise UsageError(f"--masks requires --metric coco; {self.metric} evaluates boxes only.")
        if max(*self.min_sizes, self.test_size) > self.max_size:
            raise UsageError(f"--max-size must be at least the short side of the images, got {self.max_size}.")
        self.check_batch(self.num_gpus or 1)

    def loads_checkpoint(self) -> bool:
        return self.checkpoint is not None or any(init != RANDOM for init in self.init or ())

    @property
    def random_arch(self) -> str:
        """Architecture of random weights without a checkpoint."""
        return self.arch or "resnet50"

    def changed(self) -> list[str]:
        """Also names the schedule, sizes and classes that are given and differ from the protocol's."""
        schedule = preset_schedule(self.preset)
        protocol: dict[str, Any] = {
            name: getattr(schedule, name) for name in ("lr", "iterations", "steps", "warmup")
        } | {"classes": None, "rois": ROIS, "precise_bn": BN_BATCHES}
        # C4 has different numbers of proposals in training and in tests, which one option cannot express.
        protocol["proposals"] = 1000 if self.heads == "fpn" else None
        given = [name for name, value in protocol.items() if getattr(self, name) not in (None, value)]
        return [*super().changed(), *given]

    def check_batch(self, processes: int) -> None:
        """Raise UsageError unless the processes can share a batch evenly."""
        if self.batch_size % processes:
            raise UsageError(f"--batch-size must be a multiple of the {processes} processes, got {self.batch_size}.")
