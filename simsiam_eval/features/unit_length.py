"""L2 normalization that neither overflows nor underflows in float32."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError

_TOLERANCE = 1e-6  # deviation from length 1 up to which rows count as normalized, and are not copied
_MIN_LENGTH, _MAX_LENGTH = 1e-15, 1e18  # float32 can hold the squares of such lengths and their sum


def unit_length(rows: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Rows (...,D) float32 divided by their lengths; a row of zeros stays zero, so its cosine similarity to all is 0.

    Args:
        rows: returned unchanged if all have length 1 already.
        out: tensor of the same shape to write the result to.

    Raises:
        DataError: a row is not finite.
    """
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    if bool(((lengths - 1).abs() <= _TOLERANCE).all()):
        return rows
    extreme = ~((lengths > _MIN_LENGTH) & (lengths < _MAX_LENGTH))[..., 0]  # squares may under- or overflow
    if bool(extreme.any()):
        extreme_rows = rows[extreme]
        largest = extreme_rows.abs().amax(dim=-1, keepdim=True)
        if not bool(largest.isfinite().all()):
            raise DataError("A row of the features is not finite.")
        extreme_rows = extreme_rows / torch.where(largest > 0, largest, 1)
        rows, lengths[extreme] = rows.clone(), torch.linalg.vector_norm(extreme_rows, dim=-1, keepdim=True)
        rows[extreme] = extreme_rows
    return torch.div(rows, torch.where(lengths > 0, lengths, 1), out=out)


def l2_normalized(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """`unit_length` of an array (N,D), as float32."""
    return unit_length(torch.from_numpy(writable(features))).numpy()


def writable(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """A contiguous, writable float32 array, as torch.from_numpy expects; a copy only if `rows` is not one already."""
    array = np.ascontiguousarray(rows, dtype=np.float32)
    return array if array.flags.writeable else array.copy()
