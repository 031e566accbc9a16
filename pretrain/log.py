"""The log of a run as log.jsonl, TensorBoard and Weights & Biases, and its progress bar."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretrain.callback import Callback, Position, StepResult
from simsiam_eval.errors import UsageError
from simsiam_eval.files.jsonl import JsonLines
from simsiam_eval.files.run_folder import continue_if_unwritable
from simsiam_eval.metrics.spread import output_std
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import Advance, say

_SHOW_EVERY = 1.0  # seconds: reading the sums waits for the device


class RunLog:
    """Writes each entry as a line of log.jsonl, and its numbers to TensorBoard and Weights & Biases.

    Args:
        out: the run folder.
        step: number of steps that the run has completed; entries of later steps, by a killed process, are dropped.
        tensorboard: whether to write TensorBoard events.
        wandb_project: Weights & Biases project, None for none.
        config: the run's settings, for Weights & Biases.

    Raises:
        UsageError: Weights & Biases is not installed.
        DataError: the log cannot be written.
    """

    def __init__(
        self,
        out: Path,
        step: int,
        tensorboard: bool = False,
        wandb_project: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._lines = JsonLines(out / "log.jsonl", step)
        self._tensorboard: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(out / "tensorboard"), purge_step=step)
        self._wandb = _start_wandb(out, wandb_project, config or {}) if wandb_project else None

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log `values` of a `kind` (epoch, health) after `step` steps of the whole run. A full disk is a warning."""
        continue_if_unwritable(partial(self._lines.append, {"kind": kind, "step": step, **values}), say)
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        if self._tensorboard is not None:
            try:
                for name, value in numbers.items():
                    self._tensorboard.add_scalar(name, value, step)
            except OSError as error:
                say(
                    f"Warning: TensorBoard events cannot be written ({error.strerror or error}); TensorBoard is now off"
                )
                self._tensorboard = None
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._tensorboard is not None:
            with suppress(OSError):  # the last events; the checkpoint is safe
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(out: Path, project: str, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UsageError('--wandb requires an extra: pip install "simsiam-eval[wandb]".') from error
    folder = out.resolve()
    # A resumed run keeps its id; a folder of the same name elsewhere has another.
    run_id = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    return wandb.init(project=project, name=folder.name, dir=out, id=run_id, resume="allow", config=dict(config))


class TrainingLog(Callback):
    """Means and speed of each epoch for the log, and the progress that the user sees.

    Args:
        steps, batch_size: steps per epoch, and images per step of all processes.
        optimizer: whose first group has the encoder's learning rate.
        seconds_waited: total time that this process has waited for decoding so far.
        check_loss: raises DataError if the sums are not finite.
        run_log: None in all processes but the main one.
        advance: shows progress.
    """

    def __init__(
        self,
        position: Position,
        steps: int,
        batch_size: int,
        optimizer: torch.optim.Optimizer,
        processes: Processes,
        seconds_waited: Callable[[], float],
        check_loss: Callable[[torch.Tensor], None],
        run_log: RunLog | None,
        advance: Advance,
    ) -> None:
        self._position, self._steps, self._batch_size = position, steps, batch_size
        self._optimizer, self._processes, self._seconds_waited = optimizer, processes, seconds_waited
        self._check_loss, self._run_log, self._advance = check_loss, run_log, advance
        self.before_epoch()

    def before_epoch(self) -> None:
        self._first_step = self._shown_step = self._position.step
        self._started = self._shown_at = time.perf_counter()
        self._waited_before, self._seconds_before = self._seconds_waited(), self._position.seconds

    def after_step(self, result: StepResult) -> None:
        loss = result.loss
        self._position.sums += torch.stack((loss, output_std(result.z1), torch.ones_like(loss)))
        self._position.seconds = self._seconds_before + time.perf_counter() - self._started
        if time.perf_counter() - self._shown_at >= _SHOW_EVERY:
            self._show()

    def _show(self) -> None:
        position = self._position
        self._check_loss(position.sums)
        loss, std = (position.sums[:2] / position.sums[2]).tolist()
        self._shown_at = time.perf_counter()
        images = (position.step - self._first_step) * self._batch_size
        rate = images / max(self._shown_at - self._started, 1e-9)
        lr = self._optimizer.param_groups[0]["lr"]
        note = f"epoch {position.epoch} loss {loss:.4f} std {std:.3f} lr {lr:.4f} {rate:.0f} images/s"
        self._advance(position.step - self._shown_step, note)
        self._shown_step = position.step

    def end_epoch(self, summary: dict[str, Any]) -> None:
        """Add the means over the epoch's steps and over the processes. `seconds` includes the steps before a resume;
        `waiting` is the share of the time that this process waited for decoding."""
        position = self._position
        sums = self._processes.total(position.sums)
        self._check_loss(sums)
        loss, std = (sums[:2] / sums[2]).tolist()
        seconds = time.perf_counter() - self._started
        position.seconds = self._seconds_before + seconds
        self._advance(position.step - self._shown_step)
        summary |= {
            "loss": loss,
            "output_std": std,
            "lr": self._optimizer.param_groups[0]["lr"],
            "seconds": position.seconds,
            "images_per_second": position.step * self._batch_size / max(position.seconds, 1e-9),
            "waiting": (self._seconds_waited() - self._waited_before) / seconds if seconds else 0.0,
        }

    def after_epoch(self, summary: dict[str, Any]) -> None:
        if self._run_log is not None:
            self._run_log.write("epoch", self._position.steps_done(self._steps), summary)
