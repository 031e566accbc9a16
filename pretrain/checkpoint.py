"""Checkpoints of a run: when they are written, and the state to resume from."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch

from pretrain.callback import Callback, Position, StepResult
from pretrain.model import SimSiam
from pretrain.run_folder import RunFolder
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.encoders.report import RANDOM_STATE_KEY
from simsiam_eval.errors import DataError
from simsiam_eval.files.run_folder import continue_if_unwritable
from simsiam_eval.runtime.progress import say


@dataclass(frozen=True)
class Interval:
    """How often a checkpoint is written: every `count` epochs or minutes."""

    count: int
    unit: str


class Checkpoint(Callback):
    """Writes a checkpoint when it is due, after an epoch with the best online kNN accuracy, and after the last epoch.

    A state that is not finite never replaces a good one. On a full disk the run continues without a new checkpoint,
    except after its last epoch.

    Args:
        epochs, steps: of the whole run, and per epoch.
        unreadable: row -> reason, of the images that could not be read since this process started.
        main: whether this is the main process, which alone writes.
    """

    def __init__(
        self,
        folder: RunFolder,
        model: SimSiam,
        optimizer: torch.optim.Optimizer,
        position: Position,
        interval: Interval,
        epochs: int,
        steps: int,
        unreadable: Mapping[int, str],
        main: bool = True,
    ) -> None:
        self._folder, self._model, self._optimizer, self._position = folder, model, optimizer, position
        self._interval, self._epochs, self._steps = interval, epochs, steps
        self._unreadable, self._main = unreadable, main
        self._saved_at = time.monotonic()

    def after_step(self, result: StepResult) -> None:
        if self._interval.unit == "minutes" and self._position.step < self._steps and self._is_due():
            self._try_to_save()

    def after_epoch(self, summary: dict[str, Any]) -> None:
        accuracy = summary.get("knn_top1", -1.0)
        best_before, is_best = self._position.best_knn, accuracy > self._position.best_knn
        self._position.best_knn = max(accuracy, best_before)
        if self._position.epoch == self._epochs:
            self.save()
        elif not ((is_best or self._is_due()) and self._try_to_save()):
            self._position.best_knn = best_before  # its weights are not kept
            return
        if is_best:
            self._folder.keep_best_knn()

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            DataError: the loss or the weights are not finite, or the disk is full.
        """
        self._check_state()
        self._write()

    def _try_to_save(self) -> bool:
        self._check_state()
        return continue_if_unwritable(self._write, say)

    def _write(self) -> None:
        self._saved_at = time.monotonic()
        self._position.unreadable |= self._unreadable
        if self._main:
            own = {
                "position": vars(self._position),
                "history": self._position.history,
                RANDOM_STATE_KEY: random_state(),
            }
            self._folder.save(self._model, self._optimizer, self._position, own)

    def _is_due(self) -> bool:
        count, unit = self._interval.count, self._interval.unit
        if unit == "epochs":
            return self._position.step == 0 and self._position.epoch % count == 0
        due = time.monotonic() - self._saved_at >= 60 * count
        if due:  # if it cannot be written now, it is due again that much later
            self._saved_at = time.monotonic()
        return due

    def check_loss(self, sums: torch.Tensor) -> None:
        """Raises DataError, naming the last good checkpoint, if the sums of the losses are not finite."""
        if not torch.isfinite(sums).all():
            self._reject("The loss is not finite")

    def _check_state(self) -> None:
        """Check the weights too: the loss is that of the weights before the step."""
        self.check_loss(self._position.sums)
        if not torch.isfinite(torch.nn.utils.get_total_norm([value.detach() for value in self._model.parameters()])):
            self._reject("The weights exceed the range of float32")

    def _reject(self, what: str) -> None:
        raise DataError(
            f"{what} at epoch {self._position.epoch}, step {self._position.step}: "
            f"try a smaller --lr with another --out ({self._folder.last_good()})."
        )


def restore(
    checkpoint: dict[str, Any], model: SimSiam, optimizer: torch.optim.Optimizer, device: torch.device
) -> Position:
    """Load weights, optimizer and random state; returns the position."""
    own = checkpoint[METADATA_KEY]
    model.load_state_dict({key.removeprefix("module."): value for key, value in checkpoint["state_dict"].items()})
    fused_before = [group["fused"] for group in optimizer.param_groups]  # this machine's, not the checkpoint's
    optimizer.load_state_dict(checkpoint["optimizer"])
    for group, fused in zip(optimizer.param_groups, fused_before, strict=True):
        group["fused"] = fused
    # The fused step reads parameter and momentum in memory order, and the parameter's memory format may have changed.
    for parameter, state in optimizer.state.items():
        if (momentum := state.get("momentum_buffer")) is not None:
            state["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    set_random_state(own[RANDOM_STATE_KEY])
    known = {field.name for field in fields(Position)}
    position = Position(**{name: value for name, value in own["position"].items() if name in known})
    position.sums = position.sums.to(device)
    return position


def seed_all(seed: int) -> None:
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """State of every global generator, in types that `weights_only` loading accepts.

    Views do not use them: they are drawn from seed, epoch and step.
    """
    version, numbers, gauss = random.getstate()
    name, keys, index, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(index), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned; that of GPUs only if their number is the same."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
