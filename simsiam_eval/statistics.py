"""Intervals of the accuracies."""

from __future__ import annotations

CONFIDENCE = 0.95


def accuracy_interval(correct: int, total: int) -> list[float]:
    """Wilson's 95 % interval [low, high] of a proportion (Wilson 1927), `correct` out of `total` images.

    It covers what drawing other test images would change, not another training seed.

    Raises:
        ValueError: total is 0 or correct is not in 0..total.

    >>> [round(bound, 4) for bound in accuracy_interval(90, 100)]
    [0.8256, 0.9448]
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def accuracy_metrics(name: str, correct: int, total: int) -> dict[str, float | list[float]]:
    """An accuracy and its interval as they stand in a record: `name` and `name_interval`."""
    return {name: correct / total, f"{name}_interval": accuracy_interval(correct, total)}
