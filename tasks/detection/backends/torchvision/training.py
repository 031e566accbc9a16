"""Fine-tuning of a torchvision detector: every random number of a step comes from the seed and the step."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simsiam_eval.encoders.checkpoint_file import read_checkpoint
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.jsonl import JsonLines
from simsiam_eval.files.run_folder import continue_if_unwritable
from simsiam_eval.runtime.batch_norm import mean_bn_statistics, synchronize_bn
from simsiam_eval.runtime.device import autocast
from simsiam_eval.runtime.progress import Advance, say
from tasks.detection.backends.base import StepClock, Work
from tasks.detection.backends.faults import all_finite, memory_is_short, not_finite
from tasks.detection.data.batches import SampleOrder, TrainingItem, training_batches
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.images import ImageProblem

LAST = "checkpoint_last.pth"
_UNREADABLE = 1  # as a reason to stop; the others are exit statuses, which are larger
_REPORT_EVERY = 20  # steps between two looks at the loss, which wait for the device


class Training:
    """One run, new or going on: `detector` is moved to the device and trained in place."""

    def __init__(self, detector: nn.Module, data: DetectionDataset, masks: bool, precise_bn: int, work: Work) -> None:
        self.work, self.data, self.masks, self.precise_bn = work, data, masks, precise_bn
        self.device, self.path = work.processes.device, work.folder / LAST
        self.detector = detector.to(self.device)
        several = work.processes.world > 1
        if several:
            self.detector = synchronize_bn(self.detector, self.device)
        self.optimizer = torch.optim.SGD(
            _parameter_groups(self.detector, work.schedule.weight_decay),
            lr=work.schedule.lr,
            momentum=work.schedule.momentum,
        )
        self.order = SampleOrder(len(data.images), work.schedule.batch, work.seed)
        self.finished = False
        self.sums: dict[str, Tensor] = {}  # of the losses since the last look
        self.summed = 0  # steps in them
        self.clock = StepClock()
        self.iteration = self._restore()
        self.log = JsonLines(work.folder / "log.jsonl", self.iteration) if work.processes.main else None
        self._shown = self.iteration
        self.model: nn.Module = self.detector
        if several:
            devices = [self.device] if self.device.type == "cuda" else None
            with warnings.catch_warnings():  # torch 2.14 has another name for it, which 2.11 does not know
                warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
                self.model = nn.parallel.DistributedDataParallel(self.detector, devices, broadcast_buffers=False)

    def run(self) -> None:
        """Every step that is left, the BN statistics, and the last checkpoint."""
        schedule, work = self.work.schedule, self.work
        if self.finished:
            return
        batches = self._batches(range(self.iteration, schedule.iterations))
        self.model.train()
        with work.progress("detect", schedule.iterations, self.iteration) as advance, self._memory():
            while self.iteration < schedule.iterations:
                batch = next(batches)
                self._stop_if_asked(batch)
                self._step(batch)
                self.iteration += 1
                if self.iteration % _REPORT_EVERY == 0 or self.iteration == schedule.iterations:
                    self._report_losses(advance)
                if self.iteration % work.checkpoint_every == 0 and self.iteration < schedule.iterations:
                    self._save_and_go_on()
                self.clock.tick()
            self._save()  # an estimate that is stopped begins again from here
            self._estimate_bn_statistics()
        self.finished = True
        self._save()

    def _step(self, batch: list[Any]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.work.schedule.lr_at(self.iteration)
        losses = self._losses(batch, self.iteration)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        for name, value in {"loss": loss, **losses}.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        self.summed += 1

    def _losses(self, batch: list[Any], number: int) -> dict[str, Tensor]:
        torch.manual_seed(hash((self.work.seed, self.work.processes.rank, number)) % 2**63)
        images = [pixels.to(self.device, non_blocking=True).float() / 255 for pixels, _ in batch]
        targets = [{name: value.to(self.device) for name, value in target.items()} for _, target in batch]
        with autocast(self.device, self.work.precision):
            losses: dict[str, Tensor] = self.model(images, targets)
        return losses

    def _batches(self, steps: range) -> Iterator[list[TrainingItem]]:
        share = self.work.processes.share(self.work.schedule.batch)
        return training_batches(self.data, self.masks, self.order, share, steps, self.work.workers)

    @torch.no_grad()
    def _estimate_bn_statistics(self) -> None:
        """Running statistics as the mean over batches of the finished weights, which follow no moving average."""
        if not (self.precise_bn and any(isinstance(module, _BatchNorm) for module in self.detector.modules())):
            return
        first = self.work.schedule.iterations
        with mean_bn_statistics(self.detector):
            for number, batch in enumerate(self._batches(range(first, first + self.precise_bn)), start=first):
                self._stop_if_asked(batch, save=False)
                self._losses(batch, number)

    def _stop_if_asked(self, batch: list[TrainingItem], save: bool = True) -> None:
        """At the same step in every process: a checkpoint, and out."""
        unreadable = next((item.reason for item in batch if isinstance(item, ImageProblem)), "")
        reason = self.work.processes.largest(max(self.work.stop.status, _UNREADABLE if unreadable else 0))
        if not reason:
            return
        if save:
            self._save()
        self.work.processes.barrier()  # no process leaves before the checkpoint is whole
        where = f"after step {self.iteration} of {self.work.schedule.iterations}"
        if reason == _UNREADABLE:
            what = self.work.processes.first_text(unreadable)
            raise DataError(f"Stopped {where}: {what}; put that right, and the same command goes on from {self.path}.")
        raise Stopped(f"Stopped {where}; the same command goes on from {self.last_good()}.", reason)

    def _report_losses(self, advance: Advance) -> None:
        """Show and log the mean losses since the last look; raises DataError where they are not finite."""
        self._refuse_not_finite()
        means = {name: float(value) / self.summed for name, value in self.sums.items()}
        self.sums, self.summed = {}, 0
        lr = self.work.schedule.lr_at(self.iteration - 1)
        advance(self.iteration - self._shown, f"loss {means['loss']:.4f} lr {lr:.5f}")
        self._shown = self.iteration
        if self.log is not None:
            continue_if_unwritable(partial(self.log.append, {"step": self.iteration, "lr": lr, **means}), say)

    def _refuse_not_finite(self) -> None:
        """In every process where the losses since the last look, or the weights after them, are not finite in one."""
        good = all_finite(self.sums) and all_finite(self.detector.state_dict())
        if self.work.processes.largest(int(not good)):
            raise not_finite(self.iteration, self.last_good())

    def _memory(self) -> contextlib.AbstractContextManager[None]:
        return memory_is_short(self.device, lambda: self.iteration + 1, self.last_good)

    def last_good(self) -> str:
        """The state that a run that failed can go on from."""
        return str(self.path) if self.path.exists() else "the beginning"

    def _save(self) -> None:
        """Of a state that is good: what is not finite never takes the place of one that is."""
        self._refuse_not_finite()
        self._write()

    def _write(self) -> None:
        if self.work.processes.main:
            content = {
                "format_version": 1,
                "iteration": self.iteration,
                "finished": self.finished,
                "losses": {name: float(value) for name, value in self.sums.items()},
                "losses_of": self.summed,
                "model": self.detector.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            with atomic_write(self.path) as file:
                torch.save(content, file)

    def _save_and_go_on(self) -> None:
        self._refuse_not_finite()
        continue_if_unwritable(self._write, say)

    def _restore(self) -> int:
        if not self.path.exists():
            return 0
        content = read_checkpoint(self.path)
        try:
            self.detector.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            iteration, self.finished = int(content["iteration"]), bool(content["finished"])
            losses = content.get("losses", {})
            self.sums = {name: torch.tensor(value, device=self.device) for name, value in losses.items()}
            self.summed = int(content.get("losses_of", 0))
        except (KeyError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.path} is not a checkpoint of this run: choose another --out.") from error
        if self.work.processes.main:
            where = "this run is finished" if self.finished else f"going on after step {iteration}"
            say(f"{self.work.folder}: {where}.")
        return iteration


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """As detectron2 has it: no weight decay on normalization."""
    norm = [value for module in model.modules() if isinstance(module, _BatchNorm) for value in module.parameters(False)]
    known = {id(value) for value in norm}
    rest = [value for value in model.parameters() if id(value) not in known]
    return [{"params": rest, "weight_decay": weight_decay}, {"params": norm, "weight_decay": 0.0}]
