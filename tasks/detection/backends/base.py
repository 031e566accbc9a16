"""What a backend is: it makes a detector from an encoder, fits it and predicts. Everything else is outside of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import Advance, progress
from simsiam_eval.runtime.signals import StopRequest
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.schedule import Schedule
from tasks.detection.settings import BN_BATCHES, REGIONS, DetectSettings


@dataclass(frozen=True)
class DetectorSpec:
    """What is built on the encoder; the numbers are an image's.

    `before_nms` and `proposals`: regions that the RPN keeps, in training and in tests; `rois`: those that the heads learn
    from; `precise_bn`: batches that the BN statistics are estimated on after training.
    """

    heads: str
    masks: bool
    classes: tuple[str, ...]
    min_sizes: tuple[int, ...]
    test_size: int
    max_size: int
    before_nms: tuple[int, int]
    proposals: tuple[int, int]
    rois: int
    precise_bn: int


@dataclass(frozen=True)
class Work:
    """One run's folder and circumstances; what a backend needs to fit, to stop and to go on."""

    schedule: Schedule
    folder: Path
    seed: int
    processes: Processes
    stop: StopRequest
    precision: str = "float32"
    workers: int | None = None
    checkpoint_every: int = 1000

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Of the main process, which speaks for all."""
        if not self.processes.main:
            return nullcontext(lambda steps, note="": None)
        return progress(f"{what} {self.folder.name}", total, done)


class StepClock:
    """Training steps a second, from the end of the first step: start-up and BN statistics are no training."""

    def __init__(self) -> None:
        self._ends: list[float] = []  # of the first and of the last step
        self._steps = 0

    def tick(self) -> None:
        """At the end of each step."""
        self._ends = [*self._ends[:1], time.perf_counter()]
        self._steps += 1

    @property
    def rate(self) -> float | None:
        """None of fewer than two steps."""
        return (self._steps - 1) / (self._ends[1] - self._ends[0]) if self._steps > 1 else None


class Backend(Protocol):
    """A detection library. `differences`: how its detectors differ from the reference protocol's, for the record."""

    name: str
    differences: tuple[str, ...]

    def available(self) -> str | None:
        """None, or the sentence why it cannot be used here."""

    def versions(self) -> dict[str, str]:
        """Package -> version of what decides its numbers, beyond what every record has."""

    def build(self, encoder: Encoder, spec: DetectorSpec) -> Any:
        """A detector whose trunk has the encoder's weights. Raises UsageError where it cannot be."""

    def fit(self, detector: Any, data: DetectionDataset, work: Work) -> float | None:
        """Train to the end of the schedule, from where `work.folder` says that it was; returns StepClock's rate.

        Raises Stopped at a signal, after a checkpoint; DataError for an unreadable image (after a checkpoint too), a loss
        that is not finite, or too little memory.
        """

    def predict(self, detector: Any, data: DetectionDataset, work: Work) -> Sequence[Detections]:
        """One entry for each image, in the set's order, the same in every process. Raises DataError."""


def detector_spec(settings: DetectSettings, classes: tuple[str, ...], on_cpu: bool) -> tuple[DetectorSpec, list[str]]:
    """What the settings ask for, in CPU size where it is a CPU, and the sentences to say of that.

    At C4 every region goes through the fourth stage: 512 of them took 60 s a step on two cores.
    """
    c4 = settings.heads == "c4"
    usual = {"rois": REGIONS, "train": 2000 if c4 else 1000, "test": 1000, "precise_bn": BN_BATCHES}
    small = {"rois": 32 if c4 else 64, "train": 100, "test": 100, "precise_bn": 20}
    chosen = small if on_cpu else usual
    rois, given = settings.rois or chosen["rois"], settings.proposals
    precise_bn = chosen["precise_bn"] if settings.precise_bn is None else settings.precise_bn
    proposals = (given or chosen["train"], given or chosen["test"])
    before = usual_before = (12000, 6000) if c4 else (2000, 1000)
    few = on_cpu and (given or 0) < 1000  # who asks for as many as the protocol's has them from as many
    if few:
        before = (1000, 1000)
    before = (max(before[0], proposals[0]), max(before[1], proposals[1]))
    said = []
    if on_cpu and (few or settings.rois is None or settings.precise_bn is None):
        said.append(
            "No GPU: CPU-sized where not given, and so not the protocol's number: "
            f"{rois} regions and {proposals[0]} proposals of {before[0]} an image ({usual['rois']} and {usual['train']} of "
            f"{usual_before[0]}), {precise_bn} batches for the BN statistics ({usual['precise_bn']})."
        )
    return (
        DetectorSpec(
            heads=settings.heads,
            masks=settings.masks,
            classes=classes,
            min_sizes=settings.min_sizes,
            test_size=settings.test_size,
            max_size=settings.max_size,
            before_nms=before,
            proposals=proposals,
            rois=rois,
            precise_bn=precise_bn,
        ),
        said,
    )
