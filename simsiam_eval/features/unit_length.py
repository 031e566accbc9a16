"""Rows of length one, whatever lengths float32 can hold."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError

_UNIT = 1e-6  # rows whose length is 1 to rounding are of length 1: features that were normalized need no copy
_SHORTEST, _LONGEST = 1e-15, 1e18  # whose squares, and their sum, float32 can hold


def unit_length(rows: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
    """Rows (..., D) float32 divided by their lengths; a row of zeros stays zero (its similarity to all is 0).

    Args:
        room: of that shape, for the answer; the rows themselves are the answer where all are of length one already.

    Raises:
        DataError: a row is not finite.
    """
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    if bool(((lengths - 1).abs() <= _UNIT).all()):
        return rows
    odd = ~((lengths > _SHORTEST) & (lengths < _LONGEST))[..., 0]  # zero, or squares under- or overflow, or not finite
    if bool(odd.any()):
        some = rows[odd]
        largest = some.abs().amax(dim=-1, keepdim=True)
        if not bool(largest.isfinite().all()):
            raise DataError("A row of the features is not finite.")
        some = some / torch.where(largest > 0, largest, 1)
        rows, lengths[odd] = rows.clone(), torch.linalg.vector_norm(some, dim=-1, keepdim=True)
        rows[odd] = some
    return torch.div(rows, torch.where(lengths > 0, lengths, 1), out=room)


def l2_normalized(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """`unit_length` of an array (N,D)."""
    return unit_length(torch.from_numpy(writable(features))).numpy()


def writable(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 as torch takes it, the array itself where it is so."""
    block = np.ascontiguousarray(rows, dtype=np.float32)
    return block if block.flags.writeable else block.copy()
