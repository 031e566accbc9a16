"""The training loop: Algorithm 1 of the paper, and what is written along the way."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from pretrain.health import Doctor, measure
from pretrain.loader import Loader
from pretrain.log import RunLog
from pretrain.model import Outputs
from pretrain.monitor import KnnMonitor
from pretrain.run_folder import Position, RunFolder, restore
from pretrain.settings import PretrainSettings
from pretrain.step import TrainingStep
from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.run_folder import continue_if_unwritable
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.metrics.spread import output_std
from simsiam_eval.runtime.batch_norm import mean_bn_statistics
from simsiam_eval.runtime.compiler import require_compiler
from simsiam_eval.runtime.processes import Processes, join_processes
from simsiam_eval.runtime.progress import Advance, progress, say
from simsiam_eval.runtime.signals import StopRequest, stop_requests
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source

_TICK = 1.0  # seconds between two looks at the running sums, which wait for the device
_COLLAPSED = 1  # as a reason to stop; the others are exit statuses, which are larger


def pretrain(settings: PretrainSettings) -> Result:
    """Run `pretrain`: on one process, or on those that torchrun started.

    In a folder that holds a run already it goes on where that was; the run is then the same as one never interrupted.

    Raises:
        DataError: the images or the run folder cannot be used, the loss is not finite, or, with `on_collapse` stop, the
            output has collapsed.
        Stopped: by Ctrl-C, SIGTERM or SIGUSR1, after a checkpoint.
    """
    started = time.perf_counter()
    with join_processes(settings.device) as processes:
        if settings.compile != "off":
            require_compiler(processes.device)
        source = open_source(settings.data, "train")
        with (
            closing(RunFolder(settings, source, test_preprocessing(settings), processes)) as folder,
            closing(_Run(settings, source, folder, processes)) as run,
        ):
            with stop_requests(patient=processes.world > 1) as run.stop:
                checkpoint = run.estimate_bn_statistics() if settings.epochs == 0 else run.train()
            result = run.result(checkpoint, started)
            if processes.main:
                with atomic_write(settings.out / "result.json") as file:
                    file.write(result.to_json().encode())
    return result


class _Run:
    """One run, new or going on."""

    def __init__(
        self, settings: PretrainSettings, source: ImageSource, folder: RunFolder, processes: Processes
    ) -> None:
        self.settings, self.source, self.folder, self.processes = settings, source, folder, processes
        self.stop, self.diagnosis = StopRequest(), ""
        self.clock: _Clock | None = None
        saved = folder.read()
        preprocessing = test_preprocessing(settings)
        self.loader = Loader(source, settings, processes, preprocessing)
        self.monitor = KnnMonitor(settings, source, preprocessing) if settings.val else None
        self.step = TrainingStep(settings, processes)
        self.position = Position(sums=torch.zeros(3, dtype=torch.float64, device=processes.device))
        if saved is not None:
            self.position = restore(saved, self.step.model, self.step.optimizer, processes.device)
        self._refuse_another_start()
        if saved is not None:
            if not processes.main:  # the saved sums are those of all
                self.position.sums.zero_()
            if processes.main:
                folder.mend_names(self.position)
                finished = self.position.epoch >= settings.epochs
                where = f"going on at epoch {self.position.epoch}, step {self.position.step}"
                say(f"{settings.out}: {'this run is finished' if finished else where}.")
        trained = settings.predictor not in ("none", "fixed")
        self.doctor = Doctor(self.position.doctor, stop_gradient=settings.stop_gradient, predictor=trained)
        self.log = RunLog(settings, self.steps_done) if processes.main else None

    def _refuse_another_start(self) -> None:
        """Each process has read the run's folder by itself."""
        if self.processes.world == 1:
            return
        weights = sum(float(one.double().abs().sum()) for one in self.step.model.state_dict().values())
        # Rounded: another device may add up in another order.
        start = f"epoch {self.position.epoch}, step {self.position.step}, weights {weights:.6g}"
        first = self.processes.first_text(start)
        if self.processes.largest(int(start != first)):
            raise DataError(
                f"The processes do not start from the same state ({first}; here {start}): --out must be a folder that all "
                f"machines share ({self.settings.out})."
            )

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.position.epoch * len(self.loader) + self.position.step

    def train(self) -> Path:
        """Every step that is left; returns the last checkpoint."""
        position, steps = self.position, len(self.loader)
        total = self.settings.epochs * steps
        batches = self.loader.batches(self.steps_done, total)
        if self.settings.compile != "off" and self.processes.main and self.steps_done < total:
            say("compiling in the first step: about a minute at the first start, some seconds later")
        with self._progress(total) as advance:
            for epoch in range(position.epoch, self.settings.epochs):
                self.clock = clock = _Clock(self, advance, self.step.set_lr(epoch))
                for number in range(position.step, steps):
                    view1, view2 = next(batches)
                    loss, outputs = self.step(view1, view2)
                    position.sums += torch.stack((loss, output_std(outputs.z1), torch.ones_like(loss)))
                    position.step = number + 1
                    self._look_at_health(outputs)
                    clock.tick()
                    self._stop_if_asked()
                    if self.settings.save_interval()[1] == "minutes" and position.step < steps:
                        self._save_if_due()
                self._end_epoch(clock)
        return self.folder.finished(self.position)

    def _end_epoch(self, clock: _Clock) -> None:
        position = self.position
        entry = clock.summary()
        last = position.epoch + 1 == self.settings.epochs
        if self.monitor and self.processes.main and (last or (position.epoch + 1) % self.settings.knn_every == 0):
            self._look_at_neighbors(self.monitor, entry)
        self._stop_if_asked()  # the epoch then ends again when the run goes on
        position.history.append(entry)
        position.epoch, position.step, position.seconds = position.epoch + 1, 0, 0.0
        position.sums.zero_()
        self.clock = None
        before = position.best_knn
        best = entry.get("knn_top1", -1.0) > before
        position.best_knn = max(before, entry.get("knn_top1", -1.0))
        if self.log:
            self.log.write("epoch", self.steps_done, entry)
        if last:
            self._save()
        if not last and not self._save_if_due(now=best):
            position.best_knn = before  # its weights were not kept
        elif best:
            self.folder.keep_best_knn()

    def _look_at_neighbors(self, monitor: KnnMonitor, entry: dict[str, Any]) -> None:
        """Add the online kNN to the epoch's entry. Where it fails, or the run is to stop, the entry has none."""
        try:
            found = monitor.accuracy(self.step.model.encoder, self.processes.device, self.stop)
        except Stopped:  # all processes do so next
            return
        except (DataError, OSError, RuntimeError) as error:  # a GPU without room for it is a RuntimeError
            say(f"Warning: no online kNN after epoch {entry['epoch']} ({error}); the run goes on")
            return
        entry["knn_top1"] = found
        best = " (best so far)" if found > self.position.best_knn else ""
        say(f"epoch {entry['epoch']}: kNN {100 * found:.2f} %{best}")

    def _look_at_health(self, outputs: Outputs) -> None:
        every = self.settings.health_every
        if not (every and self.processes.main and self.steps_done % every == 0):
            return
        health = measure(outputs.features, outputs.z1, outputs.z2)
        diagnosis = self.doctor.diagnose(health)
        self.position.doctor = self.doctor.to_dict()
        if self.log:
            self.log.write("health", self.steps_done, health.to_dict())
        if diagnosis:
            say(f"Warning: step {self.steps_done}: {diagnosis}")
        if self.settings.on_collapse == "stop" and self.doctor.finding:  # perhaps since before the run was resumed
            self.diagnosis = diagnosis or f"the collapse ({self.doctor.finding}) goes on"

    def _stop_if_asked(self) -> None:
        """At the same step in every process: a checkpoint, unless the output has collapsed, and out."""
        reason = self.processes.largest(max(self.stop.status, _COLLAPSED if self.diagnosis else 0))
        if not reason:
            return
        where = f"in epoch {self.position.epoch} after step {self.position.step}"
        if reason == _COLLAPSED:
            raise DataError(f"Stopped {where}: {self.diagnosis or 'collapse'} ({self.folder.last_good()})")
        self.position.sums = self.processes.total(self.position.sums)
        self._save()
        self.processes.barrier()  # no process leaves before the checkpoint is whole
        raise Stopped(f"Stopped {where}; the same command goes on from {self.folder.last}.", reason)

    def _save(self) -> None:
        """Raises DataError for sums or weights that are not finite: the last good state must not be replaced."""
        self._check_state()
        self._write()

    def _write(self) -> None:
        if self.clock is not None:
            self.position.seconds = self.clock.seconds()
        self.position.unreadable |= self.loader.unreadable
        if self.processes.main:
            self.folder.save(self.step.model, self.step.optimizer, self.position)

    def _save_if_due(self, now: bool = False) -> bool:
        """Where there is no room the run goes on: the checkpoint before is whole, and the next is tried when due."""
        if not (now or self.folder.save_due(self.position)):
            return False
        self._check_state()
        return continue_if_unwritable(self._write, say)

    def check_finite(self, sums: torch.Tensor) -> None:
        """Raises DataError, naming the last good state."""
        if not torch.isfinite(sums).all():
            raise DataError(
                f"The loss is not finite in epoch {self.position.epoch}, by step {self.position.step}: "
                f"try a smaller --lr in another --out ({self.folder.last_good()})."
            )

    def _check_state(self) -> None:
        """The loss is that of the weights before the step; these must be of use too. Raises DataError."""
        self.check_finite(self.position.sums)
        if not torch.isfinite(torch.nn.utils.get_total_norm([one.detach() for one in self.step.model.parameters()])):
            raise DataError(
                f"The weights have grown beyond float32 in epoch {self.position.epoch}, by step {self.position.step}: "
                f"try a smaller --lr in another --out ({self.folder.last_good()})."
            )

    @torch.no_grad()
    def estimate_bn_statistics(self) -> Path:
        """Set the untrained model's running statistics to their mean over one epoch of views; returns its checkpoint."""
        model = self.step.model
        with mean_bn_statistics(model):
            for view1, view2 in self.loader.batches(0, len(self.loader)):
                model.forward(view1, view2)  # never compiled: each BN counts its batches
                if self.stop.status:
                    raise Stopped("Stopped; nothing was written.", self.stop.status)
        self._save()
        return self.folder.finished(self.position)

    def _progress(self, total: int) -> AbstractContextManager[Advance]:
        if not self.processes.main:
            return nullcontext(lambda steps, note="": None)
        return progress("pretrain", total, done=self.steps_done)

    def close(self) -> None:
        """Write out the log."""
        if self.log:
            self.log.close()

    def _unreadable(self) -> int:
        """Images that no process could read."""
        met = torch.zeros(len(self.source), device=self.processes.device)
        met[list(self.position.unreadable | self.loader.unreadable)] = 1
        return int(self.processes.total(met).count_nonzero())

    def result(self, checkpoint: Path, started: float) -> Result:
        """The record of the run as far as it has come."""
        settings, unreadable = self.settings, self._unreadable()
        last = self.position.history[-1] if self.position.history else {}
        metrics = {"epochs": settings.epochs, "images": len(self.source), "unreadable": unreadable, **last}
        files = {"checkpoint": checkpoint, "last": self.folder.last, "log": settings.out / "log.jsonl"}
        if self.position.best_knn >= 0:
            metrics["best_knn_top1"] = self.position.best_knn
            files["best_knn"] = self.folder.best_knn
        row = [str(settings.epochs), str(len(self.source)), str(unreadable)]
        row += [f"{last[name]:.4f}" for name in ("loss", "output_std")] if last else ["-", "-"]
        row.append(f"{100 * last['knn_top1']:.2f}" if "knn_top1" in last else "-")
        return Result(
            task="pretrain",
            protocol=settings.protocol(),
            settings=settings.to_dict(),
            metrics=metrics,
            provenance=provenance(
                started, str(self.processes.device), data=settings.data, processes=self.processes.world
            ),
            files={role: str(path) for role, path in files.items()},
            table=Table(
                f"SimSiam, {settings.arch} ({settings.stem} stem): {checkpoint}",
                ("epochs", "images", "unreadable", "last loss", "output std x sqrt(d)", "kNN %"),
                [row],
            ),
        )


class _Clock:
    """Speed and means of an epoch, and what the person at the terminal sees of them."""

    def __init__(self, run: _Run, advance: Advance, lr: float) -> None:
        self._run, self._advance, self._lr = run, advance, lr
        self._first, self._shown = run.position.step, run.position.step
        self._started = self._looked = time.perf_counter()
        self._waited, self._before = run.loader.waited, run.position.seconds
        self._total = 0.0  # once they are done

    def tick(self) -> None:
        """Show where the run is, at most once a second: reading the sums waits for the device."""
        if time.perf_counter() - self._looked < _TICK:
            return
        position, sums = self._run.position, self._run.position.sums
        self._run.check_finite(sums)
        loss, std = (sums[:2] / sums[2]).tolist()
        self._looked = time.perf_counter()
        note = f"epoch {position.epoch} loss {loss:.4f} std {std:.3f} lr {self._lr:.4f} {self._rate():.0f} images/s"
        self._advance(position.step - self._shown, note)
        self._shown = position.step

    def summary(self) -> dict[str, Any]:
        """The epoch's line of the log: means over its steps and over the processes; `seconds` of its steps, whatever process
        did them; `waiting` is the share of the time that this process stood waiting for decoding."""
        run = self._run
        sums = run.processes.total(run.position.sums)
        run.check_finite(sums)
        loss, std = (sums[:2] / sums[2]).tolist()
        seconds = time.perf_counter() - self._started
        self._advance(run.position.step - self._shown)
        images, self._total = run.position.step * run.settings.batch_size, self.seconds()
        return {
            "epoch": run.position.epoch,
            "loss": loss,
            "output_std": std,
            "lr": self._lr,
            "seconds": self._total,
            "images_per_second": images / max(self._total, 1e-9),
            "waiting": (run.loader.waited - self._waited) / seconds if seconds else 0.0,
        }

    def seconds(self) -> float:
        """Of this epoch's steps so far, of earlier processes too."""
        return self._total or self._before + time.perf_counter() - self._started

    def _rate(self) -> float:
        """Images per second of this process."""
        steps = self._run.position.step - self._first
        return steps * self._run.settings.batch_size / max(time.perf_counter() - self._started, 1e-9)


def test_preprocessing(settings: PretrainSettings) -> Preprocessing:
    """How the encoder's images are to be prepared afterwards: 256 / 224 of the view's size, or small images whole."""
    size = settings.image_size
    short = round(size * 256 / 224) if settings.stem == "imagenet" else size
    return Preprocessing(resize=short, crop=size, decode=settings.decode)
