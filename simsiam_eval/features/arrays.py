"""Features and labels from Python callers, as arrays, torch tensors, lists or rows of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from simsiam_eval.features.rows import FeatureRows
from simsiam_eval.features.table import Features

_BLOCK = 8192  # rows checked at once


def as_numpy(values: Any) -> Any:
    """A tensor as an array, with bfloat16 and float16 as float32; other objects are returned unchanged."""
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def as_rows(features: Any) -> Any:
    """Features (N,D) that can be sliced: tensors and lists become arrays, arrays and FeatureRows are returned unchanged.

    Raises:
        ValueError: the features are not two-dimensional.

    >>> as_rows(torch.eye(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    features = as_numpy(features)
    if not hasattr(features, "shape"):
        features = np.asarray(features)
    if len(features.shape) != 2:
        raise ValueError(f"features must have shape (N, D), got {tuple(features.shape)}")
    return features


def checked_rows(features: Any, name: str) -> Any:
    """As `as_rows`, also of a `Features` object (its X), and checked.

    Args:
        name: of the argument, for the message.

    Raises:
        ValueError: not finite numbers (N,D), or empty. FeatureRows raise DataError for these when they are read.
    """
    features = as_numpy(features.X if isinstance(features, Features) else features)
    if not hasattr(features, "shape"):
        try:
            features = np.asarray(features)
        except ValueError as error:
            raise ValueError(f"{name} must have rows of the same length ({error})") from error
    if len(features.shape) != 2 or 0 in features.shape:
        raise ValueError(f"{name} must have shape (N, D) with at least one row, got {tuple(features.shape)}")
    if isinstance(features, FeatureRows):
        return features
    features = np.asarray(features)
    if features.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, got dtype {features.dtype}")
    for start in range(0, len(features), _BLOCK):
        finite = np.isfinite(features[start : start + _BLOCK]).all(axis=1)
        if not finite.all():
            raise ValueError(f"{name} must be finite, got NaN or infinity in row {start + int(finite.argmin())}")
    return features


def as_labels(labels: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels of an array, tensor or list as an array (N,) int64."""
    return np.asarray(as_numpy(labels), dtype=np.int64)
