"""One run: fine-tune a detector, evaluate it, and write its files. Completed runs in the folder are not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simsiam_eval.errors import DataError
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import say
from simsiam_eval.runtime.signals import stop_requests
from tasks.detection.backends.base import Backend, RunContext
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.detector_spec import DetectorSpec
from tasks.detection.initialization import Initialization
from tasks.detection.metrics.coco_ap import result_file_entries
from tasks.detection.metrics.evaluation import Evaluation, evaluate
from tasks.detection.picture import write_picture
from tasks.detection.run_folder import read_json, write_json
from tasks.detection.schedule import Schedule


@dataclass(frozen=True)
class RunResult:
    """What one run achieved; `images_per_second` is of the training steps after the last resume, None if there were none."""

    label: str
    seed: int
    images_per_second: float | None
    evaluation: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """For the record and evaluation.json."""
        return {
            "label": self.label,
            "seed": self.seed,
            "images_per_second": self.images_per_second,
            "metrics": self.evaluation.to_dict(),
            "warnings": self.evaluation.warnings,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunResult:
        """From `to_dict`."""
        evaluation = Evaluation.from_dict(values["metrics"], values["warnings"])
        return cls(values["label"], values["seed"], values["images_per_second"], evaluation)


@dataclass(frozen=True)
class Experiment:
    """What all runs of one command share; see RunContext for the last four."""

    out: Path
    backend: Backend
    spec: DetectorSpec
    schedule: Schedule
    train: DetectionDataset
    test: DetectionDataset
    metric: str
    processes: Processes
    precision: str
    workers: int | None
    checkpoint_every: int

    def folder(self, label: str, seed: int) -> Path:
        """The folder of one run."""
        return self.out / f"{label}-{self.backend.name}-seed{seed}"

    def run(self, init: Initialization, seed: int) -> RunResult:
        """Train and evaluate a detector, or take the result from the folder if that has been done.

        Raises:
            DataError: the folder holds a run from other weights, or as Detector.fit and Detector.predict.
            Stopped: by a signal, after a checkpoint.
        """
        folder = self.folder(init.label, seed)
        origin = {"encoder": init.identity, "seed": seed}
        saved_origin = read_json(folder / "init.json")
        if saved_origin is not None and saved_origin != origin:
            raise DataError(f"{folder} contains a run from another encoder; choose another --out.")
        saved_result = read_json(folder / "evaluation.json")
        if saved_result is not None:
            return RunResult.from_dict(saved_result)
        if self.processes.main and saved_origin is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "init.json", origin)
        self.processes.barrier()  # the folder exists
        with stop_requests(patient=self.processes.world > 1) as stop:
            context = RunContext(
                self.schedule, folder, seed, self.processes, stop, self.precision, self.workers, self.checkpoint_every
            )
            own = init.normalization()
            spec = replace(self.spec, mean=own["mean"], std=own["std"]) if own else self.spec
            detector = self.backend.build(init.encoder(seed), spec)
            steps_per_second = detector.fit(self.train, context)
            detections = detector.predict(self.test, context)
        images_per_second = None if steps_per_second is None else steps_per_second * self.schedule.batch
        result = RunResult(init.label, seed, images_per_second, evaluate(self.test, detections, self.metric))
        if self.processes.main:
            self._write(folder, result, detections)
        return result

    def _write(self, folder: Path, result: RunResult, detections: Sequence[Detections]) -> None:
        for warning in result.evaluation.warnings:
            say(f"Warning: {warning}")
        write_json(folder / "detections.json", result_file_entries(self.test, detections))
        write_picture(folder / "picture.png", self.test, detections)
        write_json(folder / "evaluation.json", result.to_dict())
