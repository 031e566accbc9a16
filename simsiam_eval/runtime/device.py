"""The device and the precision of the encoder."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from simsiam_eval.errors import UsageError
from simsiam_eval.wording import counted


def resolve_device(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        UsageError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name} does not exist: this machine has {counted(torch.cuda.device_count(), 'CUDA device')}."
        )
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context of `--precision`: none for float32, bfloat16 autocast for bf16."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
