"""The learning-rate schedule of SimSiam's pretraining and linear evaluation."""

from __future__ import annotations

import math


def cosine_lr(base: float, epoch: int, epochs: int) -> float:
    """Learning rate of `epoch` (from 0), set once an epoch: base / 2 (1 + cos(pi epoch / epochs)).

    >>> [round(cosine_lr(1.0, epoch, 4), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return base * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
