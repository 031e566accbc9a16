"""Where and in which precision the encoder runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from simsiam_eval.errors import UsageError


def resolve_device(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        UsageError: no such device here.
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
        raise UsageError(f"--device {name} is not here: this machine shows {torch.cuda.device_count()} CUDA devices.")
    return device


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The arithmetic of `--precision`: nothing for float32, bfloat16 autocast for bf16."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
