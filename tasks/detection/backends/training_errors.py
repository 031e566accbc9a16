"""Errors in training as one sentence, the same for all backends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from simsiam_eval.errors import DataError


def all_finite(state: Mapping[str, object]) -> bool:
    """Whether no tensor of a state dict contains NaN or infinity."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all()) if tensors else True


def not_finite_error(step: int, last_good: str) -> DataError:
    """For a loss, or the weights after it, that is not finite at `step`; a resumed run cannot have another --lr."""
    return DataError(
        f"The loss is not finite at step {step}. Use a smaller --lr and another --out (last good state: {last_good})."
    )


@contextlib.contextmanager
def out_of_memory_as_data_error(
    device: torch.device, step: Callable[[], int], last_good: Callable[[], str]
) -> Iterator[None]:
    """Turn an out-of-memory error into a DataError that names the step; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError, as is the CPU's
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "alloc" not in str(error).lower():
            raise
        raise DataError(
            f"Out of memory on {device} at step {step()}. Free memory and rerun the command to resume from "
            f"{last_good()}, or choose another --out with a smaller --batch-size, --rois or --max-size."
        ) from error
