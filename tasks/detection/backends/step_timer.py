"""Measure the training speed."""

from __future__ import annotations

import time
from collections.abc import Callable


class StepTimer:
    """Training iterations per second, from the end of the first one: start-up and BN statistics are not training.

    >>> clock = iter([10.0, 10.5, 11.0])
    >>> timer = StepTimer(lambda: next(clock))
    >>> for _ in range(3):
    ...     timer.tick()
    >>> timer.rate
    2.0
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._first_end = self._last_end = 0.0
        self._steps = 0

    def tick(self) -> None:
        """Call this at the end of each iteration."""
        self._last_end = self._clock()
        if self._steps == 0:
            self._first_end = self._last_end
        self._steps += 1

    @property
    def rate(self) -> float | None:
        """None until the second iteration has ended."""
        return (self._steps - 1) / (self._last_end - self._first_end) if self._steps > 1 else None
