"""95 % intervals of accuracies, means and differences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 1000
_Z = 1.959963984540054  # the normal's 97.5 % point


def accuracy_interval(correct: int, total: int) -> list[float]:
    """Wilson's 95 % interval [low, high] of a proportion (Wilson 1927), `correct` out of `total` images.

    It covers a change of the test images, not of the training seed.

    Raises:
        ValueError: total is 0 or correct is not in 0..total.

    >>> [round(bound, 4) for bound in accuracy_interval(90, 100)]
    [0.8256, 0.9448]
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"correct must be in 0..total and total above 0, got {correct} of {total}")
    return _wilson(np.array([correct / total]), np.array([total]))[:, 0].tolist()


def _wilson(share: NDArray[np.float64], count: NDArray[np.number]) -> NDArray[np.float64]:
    """Wilson's bounds (2,C) of proportions (C,) of `count` observations each."""
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    # Where the share is 0, or 1, the bound is too, but for rounding.
    return np.stack(
        (np.where(share > 0, np.maximum(center - half, 0), 0), np.where(share < 1, np.minimum(center + half, 1), 1))
    )


def accuracy_metrics(name: str, correct: int, total: int) -> dict[str, float | list[float]]:
    """An accuracy and its interval as in a record: `name` and `name_interval`."""
    return {name: correct / total, f"{name}_interval": accuracy_interval(correct, total)}


def bootstrap_intervals(values: NDArray[np.number], seed: int = 0, resamples: int = RESAMPLES) -> list[list[float]]:
    """The percentile bootstrap's 95 % interval [low, high] (Efron 1979) of the mean of each column of (N,S), a row an image.

    Like `accuracy_interval` it covers a change of the test images, not of the training seed. What is drawn is how often each
    distinct row appears, since there are only a few.

    Raises:
        ValueError: no rows.

    >>> bootstrap_intervals(np.repeat([[1], [0]], [90, 10], axis=0))
    [[0.84, 0.96]]
    """
    if not len(values):
        raise ValueError("expected at least one row to resample")
    rows, counts = np.unique(values, axis=0, return_counts=True)
    times = np.random.default_rng(seed).multinomial(len(values), counts / len(values), resamples)
    tail = 100 * (1 - CONFIDENCE) / 2
    return np.percentile(times @ rows / len(values), [tail, 100 - tail], axis=0).T.tolist()


def mean_metrics(name: str, values: NDArray[np.float64]) -> dict[str, float | list[float]]:
    """The mean of values (N,) in [0, 1], one per image, and its 95 % interval, as in a record.

    The interval is Wilson's for the effective number of observations (Korn and Graubard 1998): as many zeros and ones as
    would determine the mean as well. It is Wilson's own where all values are 0 or 1. To the variance are added four (z^2)
    observations with the variance of zeros and ones, since a sample of nearly equal values may lack rare others.

    >>> [round(bound, 4) for bound in mean_metrics("x", np.repeat([1.0, 0.0], [90, 10]))["x_interval"]]
    [0.8256, 0.9448]
    """
    mean, count = min(float(values.mean()), 1.0), len(values)  # rounding
    largest = mean * (1 - mean)  # variance of zeros and ones with this mean
    variance = (count * float(values.var()) + _Z**2 * largest) / (count + _Z**2)
    effective = count * largest / variance if variance > 0 else count
    return {name: mean, f"{name}_interval": _wilson(np.array([mean]), np.array([effective]))[:, 0].tolist()}


def class_mean_metrics(
    name: str, correct: NDArray[np.number], totals: NDArray[np.integer]
) -> dict[str, float | list[float]]:
    """The mean over classes of each one's accuracy, `correct` (C,) of `totals` (C,) images, and its 95 % interval.

    The interval combines Wilson's of the classes, each side separately (MOVER: Zou and Donner 2008). It contains the
    estimate and, unlike the bootstrap's, has a width above zero where every class is all correct or all wrong.

    >>> metrics = class_mean_metrics("x", np.array([90, 0]), np.array([90, 10]))
    >>> metrics["x"], [round(bound, 4) for bound in metrics["x_interval"]]
    (0.5, [0.4795, 0.6388])
    """
    shares: NDArray[np.float64] = np.asarray(correct, dtype=np.float64) / totals
    low, high = np.sqrt(((_wilson(shares, totals) - shares) ** 2).sum(axis=1)) / len(totals)
    mean = float(shares.mean())
    return {name: mean, f"{name}_interval": [mean - float(low), mean + float(high)]}


def paired_interval(differences: NDArray[np.floating]) -> list[float]:
    """95 % interval [low, high] of the mean difference (N,) of two classifiers on the same images, each in [-1, 1].

    Agresti and Min (2005): half an observation at -1 and at 1 and one at 0 are added, without which the interval is too
    narrow where few images differ. With several seeds a value is the difference of an image's mean correctness.

    >>> [round(bound, 4) for bound in paired_interval(np.repeat([1, -1, 0], [12, 5, 83]))]
    [-0.0118, 0.1491]
    """
    count = len(differences) + 2
    mean = float(differences.sum()) / count
    half = _Z * float(((differences**2).sum() + 1) / count - mean**2) ** 0.5 / count**0.5
    return [max(-1.0, mean - half), min(1.0, mean + half)]


def mcnemar(only_first: int, only_second: int) -> dict[str, float]:
    """McNemar's test of two classifiers on the same images.

    Args:
        only_first, only_second: number of images that only this classifier gets right.

    Returns:
        `exact`: the two-sided binomial p-value; `mid_p`: with half the probability of the observation, less conservative
        and still rarely above its level (Fagerland et al. 2013).

    >>> {name: round(p, 4) for name, p in mcnemar(12, 5).items()}
    {'exact': 0.1435, 'mid_p': 0.0963}
    """
    from scipy.stats import binom

    fewer, discordant = min(only_first, only_second), only_first + only_second
    twice = 2 * float(binom.cdf(fewer, discordant, 0.5))
    return {"exact": min(1.0, twice), "mid_p": min(1.0, twice - float(binom.pmf(fewer, discordant, 0.5)))}
