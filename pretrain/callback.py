"""The interface of callbacks: the position of the run, and the result of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch, step: the next step, counted from 0 within its epoch.
        sums: (3,) float64: loss and output std summed over this epoch's steps, and the number of steps.
        seconds: duration of this epoch's steps so far.
        history: one summary per completed epoch.
        health: state of the collapse monitor.
        best_knn: highest online kNN accuracy so far, -1 for none.
        unreadable: row -> reason, of the images that could not be read so far.
    """

    epoch: int = 0
    step: int = 0
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    health: dict[str, Any] = field(default_factory=dict)
    best_knn: float = -1.0
    unreadable: dict[int, str] = field(default_factory=dict)

    def steps_done(self, steps_per_epoch: int) -> int:
        """Number of steps that the run has completed."""
        return self.epoch * steps_per_epoch + self.step

    def complete_epoch(self, summary: dict[str, Any]) -> None:
        """Go to the first step of the next epoch."""
        self.history.append(summary)
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
        self.sums.zero_()


class StepResult(NamedTuple):
    """What one step has computed, without gradients.

    The loss is that of the whole batch; the other tensors are of its last part, if gradients are accumulated.
    Features (B,D) are the encoder's for the first view; z1 and z2 (B,d) the projections of both views.
    """

    loss: torch.Tensor
    features: torch.Tensor
    z1: torch.Tensor
    z2: torch.Tensor


class Callback:
    """Base class of callbacks; every method does nothing unless overridden."""

    def before_epoch(self) -> None:
        """Before the epoch's first step, or the first one after a resume."""

    def after_step(self, result: StepResult) -> None:
        """The position is already at the next step."""

    def end_epoch(self, summary: dict[str, Any]) -> None:
        """All steps are done: add to the summary. A run that stops here repeats this call when it resumes, not the steps."""

    def after_epoch(self, summary: dict[str, Any]) -> None:
        """The epoch is complete: the position is at the first step of the next one."""


class Callbacks(Callback):
    """Several callbacks, called in their order."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = callbacks

    def before_epoch(self) -> None:
        for callback in self._callbacks:
            callback.before_epoch()

    def after_step(self, result: StepResult) -> None:
        for callback in self._callbacks:
            callback.after_step(result)

    def end_epoch(self, summary: dict[str, Any]) -> None:
        for callback in self._callbacks:
            callback.end_epoch(summary)

    def after_epoch(self, summary: dict[str, Any]) -> None:
        for callback in self._callbacks:
            callback.after_epoch(summary)
