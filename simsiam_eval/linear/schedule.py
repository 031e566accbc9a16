"""Learning rates of pretraining, linear evaluation and detection: linear scaling, warm-up, cosine and steps.

Does not import torch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence


def scaled_lr(lr: float, batch_size: int, per: int = 256) -> float:
    """Learning rate of the optimizer for a rate given per `per` images (the linear rule, Goyal et al. 2017).

    >>> scaled_lr(0.05, 512)
    0.1
    """
    return lr * batch_size / per


def cosine_lr(base: float, epoch: int, epochs: int) -> float:
    """Cosine decay without restarts, set once per epoch: base / 2 * (1 + cos(pi * epoch / epochs)); epochs count from 0.

    >>> [round(cosine_lr(1.0, epoch, 4), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return base * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def step_lr(base: float, epoch: int, epochs: int) -> float:
    """A tenth of the rate from 60 % of the epochs on, a hundredth from 80 % on (MoCo: epochs 60 and 80 of 100).

    >>> [round(step_lr(30.0, epoch, 10), 3) for epoch in range(10)]
    [30.0, 30.0, 30.0, 30.0, 30.0, 30.0, 3.0, 3.0, 0.3, 0.3]
    """
    return multistep_lr(base, epoch, (6 * epochs / 10, 8 * epochs / 10))


def multistep_lr(base: float, step: int, milestones: Sequence[float]) -> float:
    """A tenth of the rate from every milestone on; milestones ascend.

    >>> [round(multistep_lr(0.02, step, (60, 80)), 5) for step in (0, 59, 60, 80)]
    [0.02, 0.02, 0.002, 0.0002]
    """
    return base * 0.1 ** bisect_right(milestones, step)


def warmup_lr(base: float, progress: float, start: float = 0.0) -> float:
    """Linear warm-up: from `start` of the rate at progress 0 to the rate at progress 1.

    >>> warmup_lr(0.1, 0.5), warmup_lr(0.1, 0.0, start=0.001)
    (0.05, 0.0001)
    """
    return base * (start * (1 - progress) + progress)


SCHEDULES = {"cosine": cosine_lr, "step": step_lr}


def epoch_lr(base: float, epoch: int, epochs: int, warmup_epochs: int = 0, schedule: str = "cosine") -> float:
    """Learning rate of an epoch: linear warm-up, whose last epoch has the full rate, then the schedule.

    >>> [round(epoch_lr(1.0, epoch, 6, warmup_epochs=2), 3) for epoch in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if epoch < warmup_epochs:
        return warmup_lr(base, (epoch + 1) / warmup_epochs)
    return SCHEDULES[schedule](base, epoch - warmup_epochs, epochs - warmup_epochs)
