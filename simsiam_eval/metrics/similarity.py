"""How alike two encoders see the same images: linear CKA, and how many of an image's neighbors they share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_BLOCK = 8192  # rows read at once


@torch.no_grad()
def linear_cka(one: Any, two: Any, device: torch.device | None = None) -> float:
    """Linear CKA of features (N,D) and (N,E) of the same images, read in blocks (Kornblith et al. 2019, Eq. 3).

    1 for features that are the same up to rotation, scale and shift; biased upwards where N is not far above D and E.
    NaN where one of the two does not vary.
    """
    means = [_mean(rows, device) for rows in (one, two)]
    sides = (one.shape[1], two.shape[1])
    products = [
        torch.zeros(shape, dtype=torch.float64, device=device)
        for shape in ((sides[0], sides[1]), (sides[0], sides[0]), (sides[1], sides[1]))
    ]
    for start in range(0, len(one), _BLOCK):
        x, y = (_block(rows, start, device) - mean for rows, mean in zip((one, two), means, strict=True))
        for product, (left, right) in zip(products, ((x, y), (x, x), (y, y)), strict=True):
            product += left.T @ right
    cross, own_one, own_two = (float(product.square().sum()) for product in products)
    scale = (own_one * own_two) ** 0.5
    return cross / scale if scale > 0 else float("nan")


def _block(rows: Any, start: int, device: torch.device | None) -> torch.Tensor:
    return torch.from_numpy(np.asarray(rows[start : start + _BLOCK], dtype=np.float64)).to(device or "cpu")


def _mean(rows: Any, device: torch.device | None) -> torch.Tensor:
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=device)
    for start in range(0, len(rows), _BLOCK):
        total += _block(rows, start, device).sum(dim=0)
    return total / len(rows)


def neighbor_overlap(one: NDArray[np.int64], two: NDArray[np.int64]) -> float:
    """Mean share of an image's neighbors (N,K) by the one encoder that are neighbors (N,K) by the other too."""
    if one.size == 0:
        return float("nan")
    width = int(max(one.max(), two.max())) + 1
    first = np.arange(len(one))[:, None] * width
    return float(np.isin((one + first).ravel(), (two + first).ravel(), assume_unique=True).mean())
