"""The interface of a backend, which builds a detector (fit, predict) from an encoder.

Data, schedule, evaluation and record are not part of a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from simsiam_eval.encoders.encoder import ResNetEncoder
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import Advance, progress
from simsiam_eval.runtime.signals import StopRequest
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.detector_spec import DetectorSpec
from tasks.detection.schedule import Schedule


@dataclass(frozen=True)
class RunContext:
    """Where and how one run trains.

    Attributes:
        schedule: what is trained.
        folder: for checkpoints and logs; a run resumes from what is there.
        seed: of the order of the images, and of everything drawn in a step.
        processes: who shares the work.
        stop: set by a signal; training then stops after a checkpoint.
        precision: float32 or bf16.
        workers: processes that decode images; None: one per core, at most 16.
        checkpoint_every: iterations between two checkpoints.
    """

    schedule: Schedule
    folder: Path
    seed: int
    processes: Processes
    stop: StopRequest
    precision: str = "float32"
    workers: int | None = None
    checkpoint_every: int = 1000

    def progress(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Advance]:
        """Progress of this run, shown by the main process."""
        return progress(f"{title} {self.folder.name}", total, done, shown=self.processes.main)


class Detector(Protocol):
    """A detector whose trunk started from an encoder's weights."""

    def fit(self, data: DetectionDataset, run: RunContext) -> float | None:
        """Train to the end of the schedule, from the last checkpoint in `run.folder` if there is one.

        Returns:
            Iterations per second as StepTimer measures them.

        Raises:
            Stopped: by a signal, after a checkpoint.
            DataError: an image cannot be read (after a checkpoint), the loss is not finite, or memory is short.
        """

    def predict(self, data: DetectionDataset, run: RunContext) -> Sequence[Detections]:
        """One entry for each image, in the order of the dataset, the same in every process.

        Raises:
            DataError: an image cannot be read.
        """


class Backend(Protocol):
    """A detection library; `differences`: how its detectors differ from the reference protocol's, for the record."""

    name: str
    differences: tuple[str, ...]

    def unavailable(self) -> str | None:
        """Why it cannot be used here, as a sentence; None if it can."""

    def versions(self) -> dict[str, str]:
        """Package -> version of what decides its numbers, beyond what every record names."""

    def build(self, encoder: ResNetEncoder, spec: DetectorSpec) -> Detector:
        """A detector on the encoder's trunk, which `choose_backend` found to fit."""
