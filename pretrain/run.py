"""A pretraining run: setup, resume, stopping at a signal, and the record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pretrain.build import (
    build_model,
    build_optimizer,
    distributed,
    encoder_preprocessing,
    open_folder,
    open_loader,
    start_of,
    training_recipe,
    with_saved_intensity,
)
from pretrain.callback import Callback, Callbacks, Position, StepResult
from pretrain.checkpoint import Checkpoint, Interval, restore
from pretrain.health import CollapseMonitor, HealthCheck
from pretrain.log import RunLog, TrainingLog
from pretrain.model import SimSiam
from pretrain.monitor import KnnMonitor
from pretrain.run_folder import RunFolder
from pretrain.settings import PretrainSettings
from pretrain.train import train
from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import may_change
from simsiam_eval.commands.unreadable import ReadImages, unreadable_faults
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.batch_norm import mean_bn_statistics
from simsiam_eval.runtime.compiler import require_compiler
from simsiam_eval.runtime.processes import Processes, join_processes
from simsiam_eval.runtime.progress import Advance, progress, say
from simsiam_eval.runtime.signals import StopRequest, stop_requests
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source

_COLLAPSED = 1  # as a reason to stop; the others are exit statuses, which are larger


def pretrain(settings: PretrainSettings) -> Result:
    """Run `pretrain`: on one process, or on those that torchrun started.

    A run that is already in the folder is resumed; the result is the same as that of an uninterrupted run.

    Raises:
        DataError: the images or the run folder cannot be used, the loss is not finite, or, with `on_collapse` stop, the
            output has collapsed.
        Stopped: by Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, after a checkpoint.
    """
    started = time.perf_counter()
    with join_processes(settings.device) as processes:
        if settings.compile != "off":
            require_compiler(processes.device)
        source = open_source(settings.data, "train", settings.no_label)
        source.require(range(len(source)), None, Intensity())
        preprocessing = encoder_preprocessing(settings, source)
        with (
            closing(open_folder(settings, source, preprocessing, processes)) as folder,
            closing(_Run(settings, source, preprocessing, folder, processes)) as run,
        ):
            checkpoint = run.train() if settings.epochs else run.estimate_bn_statistics()
            result = run.result(checkpoint, started)
            if processes.main:
                with atomic_write(settings.out / "result.json") as file:
                    file.write(result.to_json().encode())
    return result


class _Run:
    """A run, new or resumed."""

    def __init__(
        self,
        settings: PretrainSettings,
        source: ImageSource,
        preprocessing: Preprocessing,
        folder: RunFolder,
        processes: Processes,
    ) -> None:
        self._settings, self._source, self._folder, self._processes = settings, source, folder, processes
        device = processes.device
        saved = folder.read(settings.resume, may_change(PretrainSettings))
        if saved is not None:
            preprocessing = with_saved_intensity(preprocessing, saved)
            folder.run = replace(folder.run, preprocessing=preprocessing.to_dict())
        start = start_of(settings, saved)
        folder.run = replace(folder.run, start=start)
        self._preprocessing = preprocessing
        self._loader = open_loader(settings, source, preprocessing, processes)
        self._model = build_model(settings, processes, start)
        self._optimizer = build_optimizer(settings, self._model, device)
        self._wrapped = distributed(self._model, processes)
        if saved is None:
            self._position = Position(sums=torch.zeros(3, dtype=torch.float64, device=device))
            if processes.main:
                folder.check_space(self._model)
        else:
            self._position = restore(saved, self._model, self._optimizer, device)
        _check_same_start(self._position, self._model, settings.out, processes)
        if saved is not None:
            self._resume()
        self._checkpoint = Checkpoint(
            folder,
            self._model,
            self._optimizer,
            self._position,
            Interval(*settings.save_interval()),
            epochs=settings.epochs,
            steps=len(self._loader),
            unreadable=self._loader.unreadable,
            main=processes.main,
        )
        self._log: RunLog | None = None
        if processes.main:
            steps_done = self._position.steps_done(len(self._loader))
            self._log = RunLog(settings.out, steps_done, settings.tensorboard, settings.wandb, settings.to_dict())

    def _resume(self) -> None:
        position = self._position
        if not self._processes.main:
            position.sums.zero_()  # the saved sums are those of all processes
            return
        self._folder.restore_names(position)
        is_finished = position.epoch >= self._settings.epochs
        state = "this run is finished" if is_finished else f"resuming from epoch {position.epoch}, step {position.step}"
        say(f"{self._settings.out}: {state}.")

    def train(self) -> Path:
        """Take every step that is left; returns the last checkpoint."""
        settings, position, steps = self._settings, self._position, len(self._loader)
        first, last = position.steps_done(steps), settings.epochs * steps
        if settings.compile != "off" and self._processes.main and first < last:
            say("compiling during the first step; this takes about a minute, and a few seconds when cached")
        with (
            stop_requests(patient=self._processes.world > 1) as stop,
            self._progress(first, last) as advance,
        ):
            train(
                self._wrapped,
                self._optimizer,
                self._loader.batches(first, last),
                training_recipe(settings, steps, self._processes.device),
                position,
                Callbacks(list(self._callbacks(stop, advance))),
            )
        return self._folder.path_at(position)

    def _callbacks(self, stop: StopRequest, advance: Advance) -> Iterator[Callback]:
        settings, position, steps, processes = self._settings, self._position, len(self._loader), self._processes
        yield TrainingLog(
            position,
            steps,
            settings.batch_size,
            self._optimizer,
            processes,
            lambda: self._loader.waited,
            self._checkpoint.check_loss,
            self._log,
            advance,
        )
        monitor = CollapseMonitor(
            position.health,
            stop_gradient=settings.stop_gradient,
            trained_predictor=settings.predictor not in ("none", "fixed"),
        )
        health = HealthCheck(position, steps, settings.health_every, monitor, self._log, settings.on_collapse == "stop")
        yield health
        if settings.val:
            knn = KnnMonitor(
                self._model.encoder,
                settings.arch,
                settings.trunk_stem(),
                self._source,
                open_source(settings.val, "test", settings.no_label),
                self._preprocessing,
                position,
                stop,
                processes.device,
                k=settings.knn_k,
                temperature=settings.knn_temperature,
                every=settings.knn_every,
                epochs=settings.epochs,
                precision=settings.precision,
                workers=settings.workers,
            )
            if processes.main:
                yield knn
        yield _StopCheck(stop, health, self._checkpoint, position, self._folder, processes)
        yield self._checkpoint

    def _progress(self, first: int, last: int) -> AbstractContextManager[Advance]:
        return progress("pretrain", last, done=first, shown=self._processes.main)

    @torch.no_grad()
    def estimate_bn_statistics(self) -> Path:
        """Set the untrained model's running statistics to their mean over one epoch of views; returns its checkpoint."""
        batches = self._loader.batches(0, len(self._loader))
        with stop_requests(patient=self._processes.world > 1) as stop, mean_bn_statistics(self._model):
            for view1, view2 in batches:
                self._model.forward(view1, view2)  # never compiled: each BN counts its batches
                if status := self._processes.largest(stop.status):  # all stop together: BN is synchronized
                    raise Stopped("Stopped; nothing was written.", status)
        self._checkpoint.save()
        return self._folder.path_at(self._position)

    def close(self) -> None:
        """Write out the log."""
        if self._log is not None:
            self._log.close()

    def _count_unreadable(self) -> int:
        """Number of images that could not be read by any process."""
        is_unreadable = torch.zeros(len(self._source), device=self._processes.device)
        is_unreadable[list(self._position.unreadable | self._loader.unreadable)] = 1
        return int(self._processes.total(is_unreadable).count_nonzero())

    def result(self, checkpoint: Path, started: float) -> Result:
        """The record of the run."""
        settings, position, unreadable = self._settings, self._position, self._count_unreadable()
        last = position.history[-1] if position.history else {}
        metrics = {"epochs": settings.epochs, "images": len(self._source), "unreadable": unreadable, **last}
        files = {"checkpoint": checkpoint, "last": self._folder.last, "log": settings.out / "log.jsonl"}
        if position.best_knn >= 0:
            metrics["best_knn_top1"] = position.best_knn
            files["best_knn"] = self._folder.best_knn
        row = [str(settings.epochs), str(len(self._source)), str(unreadable)]
        row += [f"{last[name]:.4f}" for name in ("loss", "output_std")] if last else ["-", "-"]
        start = self._folder.run.start
        init = {} if start is None else {"init": start.source, "variant": start.variant}
        row.append(f"{100 * last['knn_top1']:.2f}" if "knn_top1" in last else "-")
        return Result(
            task="pretrain",
            protocol=settings.protocol(),
            settings=settings.to_dict(),
            metrics=metrics,
            provenance=provenance(
                started, str(self._processes.device), data=settings.data, processes=self._processes.world, **init
            ),
            files={role: str(path) for role, path in files.items()},
            table=Table(
                f"SimSiam, {settings.encoder_name()}: {checkpoint}",
                ("epochs", "images", "unreadable", "last loss", "output std x sqrt(d)", "kNN %"),
                [row],
            ),
            faults=unreadable_faults(
                [ReadImages(settings.data, unreadable, len(self._source))], settings.max_unreadable
            ),
        )


def _check_same_start(position: Position, model: SimSiam, out: Path, processes: Processes) -> None:
    """Every process has read the run folder by itself: raises DataError if they found different states."""
    if processes.world == 1:
        return
    weights = sum(float(value.double().abs().sum()) for value in model.state_dict().values())
    # Rounded: devices may sum in different orders.
    start = f"epoch {position.epoch}, step {position.step}, weights {weights:.6g}"
    first = processes.first_text(start)
    if processes.largest(int(start != first)):
        raise DataError(
            f"The processes start from different states ({first}; here {start}): --out must be a folder that all "
            f"machines share ({out})."
        )


class _StopCheck(Callback):
    """Stops the run at a signal or a collapse, at the same step in every process: after a signal with a checkpoint."""

    def __init__(
        self,
        stop: StopRequest,
        health: HealthCheck,
        checkpoint: Checkpoint,
        position: Position,
        folder: RunFolder,
        processes: Processes,
    ) -> None:
        self._stop, self._health, self._checkpoint = stop, health, checkpoint
        self._position, self._folder, self._processes = position, folder, processes

    def after_step(self, result: StepResult) -> None:
        self._check()

    def end_epoch(self, summary: dict[str, Any]) -> None:
        self._check()

    def _check(self) -> None:
        position, collapse = self._position, self._health.reason_to_stop
        reason = self._processes.largest(max(self._stop.status, _COLLAPSED if collapse else 0))
        if not reason:
            return
        where = f"Stopped at epoch {position.epoch}, step {position.step}"
        if reason == _COLLAPSED:
            raise DataError(f"{where}: {collapse or 'collapse'} ({self._folder.last_good()})")
        position.sums = self._processes.total(position.sums)
        self._checkpoint.save()
        self._processes.barrier()  # no process exits before the checkpoint is complete
        raise Stopped(f"{where}. Run the same command to resume from {self._folder.last}.", reason)
