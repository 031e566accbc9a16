"""`detect`: runs of a detector from one or several encoders, evaluated in one way."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.record import Result, provenance
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.files.strict_json import strict_json
from tasks.detection.settings import DetectSettings

if TYPE_CHECKING:
    from simsiam_eval.encoders.encoder import Encoder
    from simsiam_eval.runtime.processes import Processes
    from tasks.detection.backends.base import Backend
    from tasks.detection.data.detections import Detections

RANDOM = "random"
_NAMED = re.compile(r"(?P<name>[\w.+-]+)=(?P<file>.+)")


def detect(settings: DetectSettings) -> Result:
    """Run `detect`: on one process, or on those that torchrun started.

    In a folder that holds runs already it goes on where they were.

    Raises:
        UsageError: the backend cannot be used, or cannot take this encoder.
        DataError: images, annotations or the run folder cannot be used, the loss is not finite, or memory is short.
        Stopped: by Ctrl-C, SIGTERM or SIGUSR1, after a checkpoint.
    """
    from simsiam_eval.runtime.processes import join_processes

    started = time.perf_counter()
    with join_processes(settings.device) as processes:
        return _Detection(settings, processes).result(started)


class _Detection:
    """One command: data and backend are the same for all of its runs."""

    def __init__(self, settings: DetectSettings, processes: Processes) -> None:
        from tasks.detection.backends.base import detector_spec
        from tasks.detection.backends.choose import choose_backend
        from tasks.detection.data.checks import (
            add_training_images,
            check_test_set,
            check_training_set,
        )
        from tasks.detection.data.images import check_images
        from tasks.detection.data.opening import open_train_and_test
        from tasks.detection.schedule import schedule_of

        self.settings, self.processes = settings, processes
        settings.check_parts(processes.world)
        self.schedule = schedule_of(settings)
        self.starts = starts(settings)
        self.encoders = {label: _describe(path) for label, path in self.starts.items() if path is not None}
        described = next(iter(self.encoders.values()), {"arch": settings.arch, "stem": settings.stem})
        self.arch, self.stem = described["arch"], described["stem"]
        stems = {one["stem"] for one in self.encoders.values()} | {self.stem}
        self.backend: Backend = choose_backend(
            settings.backend,
            "cifar" if "cifar" in stems else self.stem,
            settings.precision == "bf16" and processes.device.type == "cpu",
        )
        train, self.test = open_train_and_test(settings.train, settings.test, settings.classes or ())
        self.train, self.found_train = check_training_set(train, settings.masks)
        self.found_test = check_test_set(self.test, settings.masks)
        add_training_images(train, self.test, self.found_test)
        for data in (self.train, self.test):
            check_images(data, processes)
        self.spec, self.said = detector_spec(settings, self.train.classes, processes.device.type == "cpu")
        self.protocol = f"{settings.protocol()}{', CPU-sized' if self.said else ''}"
        if processes.main:
            self._say()

    def _say(self) -> None:
        from simsiam_eval.runtime.progress import say

        say(self.schedule.sentence(self.processes.world))
        for sentence in [*self.said, *self.found_train.sentences("train"), *self.found_test.sentences("test")]:
            say(sentence)
        say(f"Backend: {self.backend.name}, {self.arch}-{self.settings.heads}.")

    def result(self, started: float) -> Result:
        """Every run of every start, and the record."""
        from tasks.detection.run_folder import RunFolder

        facts: dict[str, str] = {}
        if self.processes.main:
            facts = {
                "training set": self.train.fingerprint(),
                "test set": self.test.fingerprint(),
                "backend": self.backend.name,
            }
        runs: dict[str, list[dict[str, Any]]] = {}
        with closing(RunFolder(self.settings, facts, self.processes.main)):
            for label, checkpoint in self.starts.items():
                for seed in range(self.settings.seed, self.settings.seed + self.settings.trials):
                    runs.setdefault(label, []).append(self._run(label, checkpoint, seed))
            result = self._record(runs, started)
            if self.processes.main:
                _write_json(self.settings.out / "result.json", result.to_json())
        return result

    def _run(self, label: str, checkpoint: Path | None, seed: int) -> dict[str, Any]:
        """One run: trained, evaluated and pictured, each where that has not been done before."""
        from simsiam_eval.runtime.signals import stop_requests
        from tasks.detection.backends.base import Work
        from tasks.detection.run_folder import read_json

        folder = self.settings.out / f"{label}-{self.backend.name}-seed{seed}"
        facts = {
            "encoder": self.encoders[label]["weights_sha256"] if checkpoint else f"{RANDOM} {self.arch} {self.stem}",
            "seed": seed,
        }
        was = read_json(folder / "start.json")
        if was is not None and was != facts:
            raise DataError(f"{folder} holds a run from another encoder: choose another --out.")
        done = read_json(folder / "evaluation.json")
        if done is not None:
            return done
        if self.processes.main and was is None:
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(folder / "start.json", json.dumps(facts))
        self.processes.barrier()  # the folder is there for all
        with stop_requests(patient=self.processes.world > 1) as stop:
            settings = self.settings
            work = Work(self.schedule, folder, seed, self.processes, stop, settings.precision, settings.workers,
                        settings.checkpoint_every)  # fmt: skip
            detector = self.backend.build(self._encoder(checkpoint, seed), self.spec)
            steps_a_second = self.backend.fit(detector, self.train, work)
            detections = self.backend.predict(detector, self.test, work)
        # Of a run that went on: of the steps since then.
        rate = None if steps_a_second is None else steps_a_second * self.schedule.batch
        return self._evaluate(folder, detections, {"label": label, "seed": seed, "images_per_second": rate})

    def _encoder(self, checkpoint: Path | None, seed: int) -> Encoder:
        import torch

        from simsiam_eval.encoders.checkpoint import load_encoder
        from simsiam_eval.encoders.encoder import Encoder, build_trunk

        torch.manual_seed(seed)  # of the detector's new layers too, which the backend makes next
        if checkpoint is None:
            return Encoder(build_trunk(self.arch, self.stem), self.arch, self.stem)
        return load_encoder(checkpoint)[0]

    def _evaluate(self, folder: Path, detections: Sequence[Detections], run: dict[str, Any]) -> dict[str, Any]:
        from simsiam_eval.runtime.progress import say
        from tasks.detection.metrics.coco_ap import result_file_entries
        from tasks.detection.metrics.evaluation import evaluate
        from tasks.detection.picture import write_picture

        found = evaluate(self.test, detections, self.settings.metric)
        run |= {"metrics": found.to_dict(), "warnings": found.warnings}
        if self.processes.main:
            for warning in found.warnings:
                say(f"Warning: {warning}")
            _write_json(folder / "detections.json", json.dumps(result_file_entries(self.test, detections)))
            write_picture(folder / "picture.png", self.test, detections)
            _write_json(folder / "evaluation.json", strict_json(run, indent=1))
        return run

    def _record(self, runs: dict[str, list[dict[str, Any]]], started: float) -> Result:
        from tasks.detection.summary import summarized, table

        settings, backend = self.settings, self.backend
        by_init = {label: summarized(some) for label, some in runs.items()}
        first = next(iter(runs))
        warnings = [f"{label}: {text}" for label, some in runs.items() for one in some for text in one["warnings"]]
        folder = settings.out / f"{first}-{backend.name}-seed{settings.seed}"
        ran_on = provenance(
            started,
            str(self.processes.device),
            backend=backend.name,
            differences=list(backend.differences),
            schedule=dataclasses.asdict(self.schedule),
            detector=dataclasses.asdict(self.spec),
            encoders=self.encoders,
            random={"arch": self.arch, "stem": self.stem},
            processes=self.processes.world,
            train={"spec": list(settings.train), **self.found_train.to_dict()},
            test={"spec": settings.test, **self.found_test.to_dict()},
            notes=self.said,
        )
        ran_on["versions"] |= backend.versions() | {"pycocotools": importlib.metadata.version("pycocotools")}
        return Result(
            task="detect",
            protocol=self.protocol,
            settings=settings.to_dict(),
            metrics={
                **{name: one["mean"] for name, one in by_init[first].items()},
                "start": first,
                "by_init": by_init,
                "runs": [run for some in runs.values() for run in some],
                "images": len(self.test.images),
                "warnings": warnings,
            },
            provenance=ran_on,
            files={"picture": str(folder / "picture.png"), "detections": str(folder / "detections.json")},
            table=table(
                settings,
                self.protocol,
                by_init,
                {label: self.encoders.get(label, {"arch": self.arch})["arch"] for label in runs},
                backend,
                [*self.said, *warnings, f"Pictures: {folder / 'picture.png'}"],
            ),
        )


def starts(settings: DetectSettings) -> dict[str, Path | None]:
    """label -> checkpoint, None for random weights: the encoder first, then --init in the order given.

    A start without a name of its own (NAME=CKPT) is named after its file.

    Raises:
        UsageError: one start, or one name, is given twice.
    """
    given: list[tuple[str, Path | None, bool]] = []  # label, checkpoint, whether the label is the user's
    if settings.checkpoint is not None:
        given.append(("encoder", settings.checkpoint, True))
    for text in settings.init or ():
        named = _NAMED.match(text)
        if text == RANDOM:
            given.append((RANDOM, None, True))
        elif named and not Path(text).exists() and named["name"] == RANDOM:
            raise UsageError(f"--init {text}: random is the start without a checkpoint, give another name.")
        elif named and not Path(text).exists():
            given.append((named["name"], Path(named["file"]).expanduser(), True))
        else:
            given.append((Path(text).name.split(".")[0], Path(text).expanduser(), False))
    labels = [label for label, _, _ in given]
    chosen: dict[str, Path | None] = {}
    for place, (label, path, own) in enumerate(given):
        if labels.count(label) > 1 and own and label in chosen:
            if path is None:
                raise UsageError("--init random is given twice: once is enough, --trials repeats it.")
            raise UsageError(f"--init {label}={path}: there is a start {label} already, give another name.")
        unique = own or (labels.count(label) == 1 and label != RANDOM)
        chosen[label if unique else f"{label}-{place}"] = path
    return chosen


def _describe(path: Path) -> dict[str, Any]:
    from simsiam_eval.encoders.checkpoint import inspect_checkpoint

    report = inspect_checkpoint(path)
    kept = ("path", "family", "arch", "stem", "epoch", "weights_sha256")
    return {name: value for name, value in report.to_dict().items() if name in kept}


def _write_json(path: Path, text: str) -> None:
    from simsiam_eval.files.atomic import atomic_write

    with atomic_write(path) as file:
        file.write(text.encode())
