"""Learning-rate schedules of pretraining and of linear evaluation."""

from __future__ import annotations

import math


def cosine_lr(base: float, epoch: int, epochs: int) -> float:
    """Learning rate of `epoch` (from 0), set once an epoch: base / 2 (1 + cos(pi epoch / epochs)).

    >>> [round(cosine_lr(1.0, epoch, 4), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return base * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def step_lr(base: float, epoch: int, epochs: int) -> float:
    """Learning rate of `epoch` (from 0): a tenth from 60 % of the epochs on, a hundredth from 80 % (MoCo: 60, 80).

    >>> [round(step_lr(30.0, epoch, 10), 3) for epoch in range(10)]
    [30.0, 30.0, 30.0, 30.0, 30.0, 30.0, 3.0, 3.0, 0.3, 0.3]
    """
    return base * 0.1 ** sum(10 * epoch >= tenths * epochs for tenths in (6, 8))


SCHEDULES = {"cosine": cosine_lr, "step": step_lr}
