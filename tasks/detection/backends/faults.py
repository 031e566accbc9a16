"""What goes wrong in training, in one sentence each, the same from every backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.errors import DataError


def all_finite(state: Mapping[str, Any]) -> bool:
    """Whether no number of a state dict is NaN or infinite."""
    floating = [one for one in state.values() if isinstance(one, Tensor) and one.is_floating_point()]
    return bool(torch.stack([one.isfinite().all() for one in floating]).all()) if floating else True


def not_finite(step: int, last_good: str) -> DataError:
    """Of a loss, or the weights after it, by `step`; the same folder takes no other --lr."""
    return DataError(
        f"The loss is not finite by step {step}: give a smaller --lr and another --out (the last good state: {last_good})."
    )


@contextlib.contextmanager
def memory_is_short(device: torch.device, step: Callable[[], int], last_good: Callable[[], str]) -> Iterator[None]:
    """Raises DataError for memory that is short in step `step()`; everything else goes by."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError, as is the CPU's
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "alloc" not in str(error).lower():
            raise
        raise DataError(
            f"Out of memory on {device} in step {step()}: make room and give the same command, which goes on from "
            f"{last_good()}, or choose another --out with a smaller --batch, --rois or --max-size."
        ) from error
