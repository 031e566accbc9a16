"""Features as callers pass them: arrays, torch tensors, lists or rows of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_rows(features: Any) -> Any:
    """Features (N,D) that NumPy can slice: tensors and lists become arrays, arrays and FeatureRows are returned unchanged.

    Raises:
        ValueError: not two-dimensional.

    >>> as_rows(torch.eye(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu()
        features = (features if features.dtype in (torch.float32, torch.float64) else features.float()).numpy()
    elif not hasattr(features, "shape"):
        features = np.asarray(features)
    if len(features.shape) != 2:
        raise ValueError(f"features must have shape (N, D), got {tuple(features.shape)}")
    return features


def as_labels(labels: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels (N,) int64, of an array, tensor or list."""
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    return np.asarray(labels, dtype=np.int64)
