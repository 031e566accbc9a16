"""The confusion matrix and per-class accuracies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(labels: NDArray[np.int64], guesses: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How many images of class i were taken for class j: (classes,classes) int64.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(labels * classes + guesses, minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's images that was recognized: (C,), NaN for a class without images."""
    total = matrix.sum(axis=1)
    return np.divide(matrix.diagonal(), total, out=np.full(len(matrix), np.nan), where=total > 0)
