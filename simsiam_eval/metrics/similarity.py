"""Similarity of two encoders on the same images: linear CKA, and the fraction of common neighbors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.arrays import checked_rows

_BLOCK = 8192  # rows read at once


@torch.no_grad()
def cka(a: Any, b: Any, device: torch.device | None = None) -> float:
    """Linear CKA of features (N,D) and (N,E) of the same images, in the same order (Kornblith et al. 2019, Eq. 3).

    1 for features that are the same up to rotation, scale and shift. Biased upwards unless N is well above D and E.

    Args:
        a, b: arrays, tensors, Features or FeatureRows, which are read in blocks.
        device: where products are computed; default: the CPU.

    Returns:
        a value in [0, 1]; NaN where one of the two is constant.

    Raises:
        ValueError: not the same number of rows, or one of the two is empty, not finite or not two-dimensional.

    >>> a = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [3.0, 0.5]])
    >>> round(cka(a, 2 * a[:, ::-1] + 7), 6)
    1.0
    """
    a, b = checked_rows(a, "a"), checked_rows(b, "b")
    if len(a) != len(b):
        raise ValueError(f"a and b must have the same number of rows, got {len(a)} and {len(b)}")
    means = [_mean(rows, device) for rows in (a, b)]
    sides = (a.shape[1], b.shape[1])
    products = [
        torch.zeros(shape, dtype=torch.float64, device=device)
        for shape in ((sides[0], sides[1]), (sides[0], sides[0]), (sides[1], sides[1]))
    ]
    for start in range(0, len(a), _BLOCK):
        x, y = (_block(rows, start, device) - mean for rows, mean in zip((a, b), means, strict=True))
        for product, (left, right) in zip(products, ((x, y), (x, x), (y, y)), strict=True):
            product += left.T @ right
    cross, self_a, self_b = (float(product.square().sum()) for product in products)
    scale = (self_a * self_b) ** 0.5
    return cross / scale if scale > 0 else float("nan")


def _block(rows: Any, start: int, device: torch.device | None) -> torch.Tensor:
    return torch.from_numpy(np.asarray(rows[start : start + _BLOCK], dtype=np.float64)).to(device or "cpu")


def _mean(rows: Any, device: torch.device | None) -> torch.Tensor:
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=device)
    for start in range(0, len(rows), _BLOCK):
        total += _block(rows, start, device).sum(dim=0)
    return total / len(rows)


def neighbor_overlap(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mean share of an image's neighbors (N,K) in one encoder's features that are also neighbors (N,K) in the other's."""
    if a.size == 0:
        return float("nan")
    width = int(max(a.max(), b.max())) + 1
    offsets = np.arange(len(a))[:, None] * width  # makes the pairs (image, neighbor) distinct numbers
    return float(np.isin((a + offsets).ravel(), (b + offsets).ravel(), assume_unique=True).mean())
