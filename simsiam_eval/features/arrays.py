"""Features and labels from Python callers, as arrays, torch tensors, lists or rows of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


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


def as_labels(labels: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels of an array, tensor or list as an array (N,) int64."""
    return np.asarray(as_numpy(labels), dtype=np.int64)
