"""Label-free measures of how far features spread, and of whether training has collapsed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from simsiam_eval.features.arrays import as_rows, checked_rows

_NOISE = 1e-12  # eigenvalues below this share of the trace are rounding: singular values below float32's own 1e-6
_BLOCK = 8192  # rows read at once


def rankme(features: Any, device: torch.device | None = None) -> float:
    """RankMe (Garrido et al., arXiv 2210.02885) of features (N,D): array, tensor, Features or FeatureRows, read in blocks.

    The exponential of the entropy of the singular values divided by their sum: from 1 (one direction) to min(N, D) (all
    directions have the same weight).

    Raises:
        ValueError: the features are empty, not finite or not (N,D).

    >>> round(rankme(np.eye(3, 8)), 6)
    3.0
    """
    return float(rankme_of(singular_values_of_rows(checked_rows(features, "features"), device)[0]))


def collapse_std(z: Any) -> float:
    """Std of the L2-normalized rows of z (B,d), array, tensor or Features: mean over channels, times sqrt(d).

    About 1 for outputs spread over the whole sphere, 0 when all are the same (SimSiam, Fig. 2, there without sqrt(d)).

    Raises:
        ValueError: z is empty, not finite or not (B,d).

    >>> collapse_std(np.ones((4, 8)))
    0.0
    """
    rows = checked_rows(z, "z")
    return float(output_std(z if isinstance(z, torch.Tensor) else torch.from_numpy(np.array(rows, np.float32))))


@torch.no_grad()
def output_std(z: torch.Tensor) -> torch.Tensor:
    """Std of the L2-normalized output (B,d) over the batch, mean over channels, times sqrt(d): scalar.

    About 1 for outputs spread over the whole sphere, 0 when all are the same (Fig. 2, middle, there without sqrt(d)).
    """
    unit = functional.normalize(z.float(), dim=1)
    return unit.std(dim=0, unbiased=False).mean() * z.shape[1] ** 0.5


@torch.no_grad()
def effective_rank(x: torch.Tensor) -> torch.Tensor:
    """RankMe of (B,D): exp of the entropy of the singular values divided by their sum; float64 scalar.

    From 1, one direction, to min(B, D), where all have the same weight; 0 if x is 0. Not centered, as in Garrido et al.
    (arXiv 2210.02885, Eq. 1); their 1e-7 against log 0 is not needed.

    >>> round(effective_rank(torch.eye(3, 8)).item(), 6)
    3.0
    """
    return rankme_of(singular_values(x)[0])


@torch.no_grad()
def explained_variance_auc(x: torch.Tensor) -> torch.Tensor:
    """Area under the curve of the variance explained by the first k principal directions of (B,D); float64 scalar.

    With s_1 >= s_2 >= ... the singular values of x less its mean row: 1/K sum_k (s_1 + ... + s_k) / (s_1 + ... + s_K).
    (K + 1) / 2K, about 0.5, where all directions have the same weight; 1 where one has all of it or x is constant. Li, Efros
    and Pathak (arXiv 2209.15007, Eq. 2) as in their code: singular values, not squared. They have B > D and so K = D; here
    K is min(B - 1, D), the maximum for a batch. It therefore depends on the batch size.
    """
    return area_of(singular_values(x)[1])


def singular_values(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of (B,D), as it is and less its mean row, float64, largest first: min(B,D), and min(B-1,D) of them.

    From the smaller Gram matrix: at (256, 2048) 15 times as fast as the SVD. float64, because it holds their squares.
    """
    x = x.nan_to_num().double()
    rows, width = x.shape
    scale = x.abs().amax().clamp(min=1e-300)
    x = x / scale
    if rows <= width:
        gram = x @ x.T
        means = gram.mean(dim=0)
        centered = gram - means - means[:, None] + means.mean()
    else:
        gram = x.T @ x
        mean = x.mean(dim=0)
        centered = gram - rows * torch.outer(mean, mean)
    values, centered_values = _roots(gram, centered, rows, width)
    return values * scale, centered_values * scale


def _roots(gram: torch.Tensor, centered: torch.Tensor, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    squares = torch.linalg.eigvalsh(torch.stack((gram, centered))).flip(1)  # largest first
    noise = _NOISE * gram.trace()
    values = torch.where(squares > noise, squares, 0).sqrt()
    return values[0], values[1, : min(rows - 1, width)]


@torch.no_grad()
def singular_values_of_rows(rows: Any, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`singular_values` of rows (N,D), array, tensor or FeatureRows, read in blocks."""
    rows = as_rows(rows)
    count, width = rows.shape
    if count <= width:
        return singular_values(torch.from_numpy(np.asarray(rows, dtype=np.float32)).to(device or "cpu"))
    gram = torch.zeros((width, width), dtype=torch.float64, device=device)
    total = torch.zeros(width, dtype=torch.float64, device=device)
    for start in range(0, count, _BLOCK):
        block = torch.from_numpy(np.asarray(rows[start : start + _BLOCK], dtype=np.float64)).to(gram.device)
        gram += block.T @ block
        total += block.sum(dim=0)
    mean = total / count
    return _roots(gram, gram - count * torch.outer(mean, mean), count, width)


def rankme_of(values: torch.Tensor) -> torch.Tensor:
    """`effective_rank` from the singular values."""
    total = values.sum()
    shares = values / total.clamp(min=1e-300)
    return torch.where(total > 0, torch.special.entr(shares).sum().exp(), 0)


def area_of(values: torch.Tensor) -> torch.Tensor:
    """`explained_variance_auc` from the singular values of the rows less their mean, largest first."""
    total = values.sum()
    return torch.where(total > 0, (values.cumsum(0) / total.clamp(min=1e-300)).mean(), 1)


def uniformity(unit: torch.Tensor) -> torch.Tensor:
    """Log of the mean of exp(-2 x squared distance) over pairs of rows (B,D) of length one; float64 scalar, in [-8, 0].

    -4 (nearly) when spread evenly in many dimensions, 0 when all are the same (Wang and Isola, arXiv 2005.10242, t = 2).
    """
    gram = (unit @ unit.T).double()
    lengths = gram.diagonal()
    potential = (-2 * (lengths + lengths[:, None] - 2 * gram).clamp(min=0)).exp()
    rows = len(unit)
    return ((potential.sum() - potential.diagonal().sum()) / (rows * (rows - 1))).log()
