"""Fine-tune a torchvision detector. All random numbers of a step depend only on the seed and the step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from simsiam_eval.encoders.checkpoint_files.checkpoint_file import read_checkpoint
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.jsonl import JsonLines
from simsiam_eval.files.run_folder import continue_if_unwritable
from simsiam_eval.runtime.batch_norm import mean_bn_statistics, synchronize_bn
from simsiam_eval.runtime.device import autocast
from simsiam_eval.runtime.progress import Advance, say
from tasks.detection.backends.base import RunContext
from tasks.detection.backends.step_timer import StepTimer
from tasks.detection.backends.training_errors import all_finite, not_finite_error, out_of_memory_as_data_error
from tasks.detection.data.batches import SampleOrder, TrainingItem, training_batches
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.images import ImageProblem

CHECKPOINT = "checkpoint_last.pth"
_UNUSABLE_IMAGE = 1  # as a reason to stop; the exit statuses of signals are larger
_REPORT_EVERY = 20  # steps between two reports of the loss, which wait for the device


class Training:
    """One run, new or resumed; moves `detector` to the device and trains it in place.

    Attributes:
        step: number of completed steps.
        loss_sums, summed_steps: of the losses since the last report.
    """

    def __init__(
        self, detector: nn.Module, data: DetectionDataset, masks: bool, precise_bn: int, run: RunContext
    ) -> None:
        self.run, self.data, self.masks, self.precise_bn = run, data, masks, precise_bn
        self.device, self.path = run.processes.device, run.folder / CHECKPOINT
        self.detector = detector.to(self.device)
        distributed = run.processes.world > 1
        if distributed:
            self.detector = synchronize_bn(self.detector, self.device)
        self.optimizer = torch.optim.SGD(
            _parameter_groups(self.detector, run.schedule.weight_decay),
            lr=run.schedule.lr,
            momentum=run.schedule.momentum,
        )
        self.order = SampleOrder(len(data.images), run.schedule.batch, run.seed)
        self.finished = False
        self.loss_sums: dict[str, Tensor] = {}
        self.summed_steps = 0
        self.timer = StepTimer()
        self.step = self._restore()
        self.log = JsonLines(run.folder / "log.jsonl", self.step) if run.processes.main else None
        self._reported_step = self.step
        self.model: nn.Module = self.detector
        if distributed:
            devices = [self.device] if self.device.type == "cuda" else None
            with warnings.catch_warnings():  # torch 2.14 renames the argument, but 2.11 does not know the new name
                warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
                self.model = nn.parallel.DistributedDataParallel(self.detector, devices, broadcast_buffers=False)

    def train(self) -> None:
        """All remaining steps, the BN statistics, and the last checkpoint."""
        if self.finished:
            return
        last_step, every = self.run.schedule.iterations, self.run.checkpoint_every
        batches = self._batches(range(self.step, last_step))
        self.model.train()
        with (
            self.run.progress("detect", last_step, self.step) as advance,
            out_of_memory_as_data_error(self.device, lambda: self.step + 1, self.last_good),
        ):
            while self.step < last_step:
                batch = next(batches)
                self._stop_if_requested(batch)
                self._train_step(batch)
                self.step += 1
                if self.step % _REPORT_EVERY == 0 or self.step == last_step:
                    self._report_losses(advance)
                if self.step % every == 0 and self.step < last_step:
                    self._check_finite()
                    continue_if_unwritable(self._write_checkpoint, say)
                self.timer.tick()
            self._save()  # if the estimate is interrupted, it restarts from here
            self._estimate_bn_statistics()
        self.finished = True
        self._save()

    def _train_step(self, batch: list[Any]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.schedule.lr_at(self.step)
        losses = self._losses(batch, self.step)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        for name, value in {"loss": loss, **losses}.items():
            self.loss_sums[name] = self.loss_sums.get(name, torch.zeros((), device=self.device)) + value.detach()
        self.summed_steps += 1

    def _losses(self, batch: list[Any], step: int) -> dict[str, Tensor]:
        torch.manual_seed(hash((self.run.seed, self.run.processes.rank, step)) % 2**63)
        images = [pixels.to(self.device, non_blocking=True).float() / 255 for pixels, _ in batch]
        targets = [{name: value.to(self.device) for name, value in target.items()} for _, target in batch]
        with autocast(self.device, self.run.precision):
            losses: dict[str, Tensor] = self.model(images, targets)
        return losses

    def _batches(self, steps: range) -> Iterator[list[TrainingItem]]:
        share = self.run.processes.share(self.run.schedule.batch)
        return training_batches(self.data, self.masks, self.order, share, steps, self.run.workers)

    @torch.no_grad()
    def _estimate_bn_statistics(self) -> None:
        """Replace the moving averages of BN by means over batches, with the final weights (PreciseBN)."""
        if not (self.precise_bn and any(isinstance(module, _BatchNorm) for module in self.detector.modules())):
            return
        first = self.run.schedule.iterations
        with mean_bn_statistics(self.detector):
            for step, batch in enumerate(self._batches(range(first, first + self.precise_bn)), start=first):
                self._stop_if_requested(batch, save=False)
                self._losses(batch, step)

    def _stop_if_requested(self, batch: list[TrainingItem], save: bool = True) -> None:
        """On a signal or an unusable image, save a checkpoint and stop, at the same step in every process."""
        problem = next((item.reason for item in batch if isinstance(item, ImageProblem)), "")
        reason = self.run.processes.largest(max(self.run.stop.status, _UNUSABLE_IMAGE if problem else 0))
        if not reason:
            return
        if save:
            self._save()
        self.run.processes.barrier()  # no process leaves before the checkpoint is complete
        where = f"Stopped after step {self.step} of {self.run.schedule.iterations}"
        if reason == _UNUSABLE_IMAGE:
            problem = self.run.processes.first_text(problem)
            raise DataError(f"{where}: {problem}. Fix this and run the same command to resume from {self.path}.")
        raise Stopped(f"{where}. Run the same command to resume from {self.last_good()}.", reason)

    def _report_losses(self, advance: Advance) -> None:
        """Show and log the mean losses since the last report; raise DataError if they are not finite."""
        self._check_finite()
        means = {name: float(value) / self.summed_steps for name, value in self.loss_sums.items()}
        self.loss_sums, self.summed_steps = {}, 0
        lr = self.run.schedule.lr_at(self.step - 1)
        advance(self.step - self._reported_step, f"loss {means['loss']:.4f} lr {lr:.5f}")
        self._reported_step = self.step
        if self.log is not None:
            continue_if_unwritable(partial(self.log.append, {"step": self.step, "lr": lr, **means}), say)

    def _check_finite(self) -> None:
        """Raise DataError, in every process, if the losses since the last report or the weights are not finite."""
        finite = all_finite(self.loss_sums) and all_finite(self.detector.state_dict())
        if self.run.processes.largest(int(not finite)):
            raise not_finite_error(self.step, self.last_good())

    def last_good(self) -> str:
        """The state that a failed run can resume from."""
        return str(self.path) if self.path.exists() else "the beginning"

    def _save(self) -> None:
        """Write a checkpoint; one with values that are not finite never replaces a good one."""
        self._check_finite()
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        if self.run.processes.main:
            content = {
                "format_version": 1,
                "step": self.step,
                "finished": self.finished,
                "loss_sums": {name: float(value) for name, value in self.loss_sums.items()},
                "summed_steps": self.summed_steps,
                "model": self.detector.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            with atomic_write(self.path) as file:
                torch.save(content, file)

    def _restore(self) -> int:
        """Load the checkpoint if there is one; returns the number of completed steps."""
        if not self.path.exists():
            return 0
        content = read_checkpoint(self.path)
        try:
            self.detector.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            step, self.finished = int(content["step"]), bool(content["finished"])
            sums = content["loss_sums"]
            self.loss_sums = {name: torch.tensor(value, device=self.device) for name, value in sums.items()}
            self.summed_steps = int(content["summed_steps"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.path} is not a checkpoint of this run; choose another --out.") from error
        if self.run.processes.main:
            state = "training is complete" if self.finished else f"resuming after step {step}"
            say(f"{self.run.folder}: {state}.")
        return step


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """No weight decay on normalization layers, as in detectron2."""
    norm = [value for module in model.modules() if isinstance(module, _BatchNorm) for value in module.parameters(False)]
    norm_ids = {id(value) for value in norm}
    others = [value for value in model.parameters() if id(value) not in norm_ids]
    return [{"params": others, "weight_decay": weight_decay}, {"params": norm, "weight_decay": 0.0}]
