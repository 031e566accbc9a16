"""Stratified subsets of a labeled set: a held-out part, a fraction, or a number of images per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import class_name

Rows = NDArray[np.int64]


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> tuple[Rows, Rows]:
    """Split rows at random, stratified by class, into (kept, held out), both sorted.

    Of a class of n images, round(share * n) are held out, at least 1 and at most n - 1: a class of one image is kept.

    Args:
        labels: (N,) class numbers.
        share: fraction to hold out, in (0, 1).
        seed: random seed.

    Raises:
        DataError: every class has only one image.

    >>> [rows.tolist() for rows in hold_out(np.array([0, 0, 0, 1, 1, 2]), 0.4, seed=0)]
    [[0, 1, 3, 5], [2, 4]]
    """
    rng = np.random.default_rng(seed)
    kept, held = [], []
    for rows in _by_class(labels).values():
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        shuffled = rng.permutation(rows)
        held.append(shuffled[:count])
        kept.append(shuffled[count:])
    if not any(map(len, held)):
        raise DataError("No class has two training images, so no validation split can be held out.")
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def fraction_of(labels: NDArray[np.int64], fraction: float, seed: int, names: Sequence[str] | None = None) -> Rows:
    """A random `fraction` of the rows, stratified by class and sorted: round(fraction * n) of a class of n.

    Args:
        labels: (N,) class numbers.
        fraction: in (0, 1].
        seed: random seed.
        names: class names, for messages.

    Raises:
        DataError: no image of a class would remain.
    """
    rows_of = _by_class(labels)
    counts = {label: round(fraction * len(rows)) for label, rows in rows_of.items()}
    for label, count in counts.items():
        if count < 1:
            raise DataError(
                f"A fraction of {fraction:g} leaves no image of class {class_name(label, names)}, which has "
                f"{len(rows_of[label])}: use a larger --fraction, or --shots."
            )
    return _sample(labels, counts, seed)


def shots_of(labels: NDArray[np.int64], shots: int, seed: int, names: Sequence[str] | None = None) -> Rows:
    """`shots` random rows of every class, sorted.

    Args:
        labels: (N,) class numbers.
        shots: number of images per class.
        seed: random seed.
        names: class names, for messages.

    Raises:
        DataError: a class has fewer images.
    """
    for label, rows in _by_class(labels).items():
        if len(rows) < shots:
            raise DataError(
                f"--shots {shots} exceeds the {len(rows)} training images of class {class_name(label, names)}."
            )
    return _sample(labels, dict.fromkeys(_by_class(labels), shots), seed)


def _sample(labels: NDArray[np.int64], counts: dict[int, int], seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return np.sort(
        np.concatenate([rng.permutation(rows)[: counts[label]] for label, rows in _by_class(labels).items()])
    )


def _by_class(labels: NDArray[np.int64]) -> dict[int, Rows]:
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    return dict(zip(classes.tolist(), np.split(order, starts[1:]), strict=True))
