"""Write our checkpoints, which the reference's scripts can read too."""

import io
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.wording import first_few

METADATA_KEY = "simsiam_eval"


def write_checkpoint(
    path: str | os.PathLike[str],
    *,
    epoch: int,
    arch: str,
    state_dict: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> None:
    """Write a checkpoint that the reference's scripts can read, atomically.

    Args:
        path: of the file.
        epoch: epochs completed.
        arch: a name in ARCHITECTURES.
        state_dict: with the reference's keys, `module.encoder.*` and `module.predictor.*`.
        optimizer: the optimizer's state dict.
        metadata: written under "simsiam_eval"; numbers, strings, tensors, and lists, tuples and dicts of them.

    Raises:
        ValueError: another key in `state_dict`.
        TypeError: `metadata` or the optimizer's settings have a value that `weights_only=True` cannot read back.
        DataError: the file cannot be written.
    """
    unexpected = [key for key in state_dict if not key.startswith(("module.encoder.", "module.predictor."))]
    if unexpected:
        raise ValueError(
            f"expected keys that start with module.encoder. or module.predictor., got {first_few(unexpected)}"
        )
    trial = io.BytesIO()
    torch.save({"metadata": dict(metadata), "settings": optimizer.get("param_groups")}, trial)
    trial.seek(0)
    try:
        torch.load(trial, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.search(r"(?:GLOBAL|unrecognized function) (\S*\w)", str(error))
        raise TypeError(f"the checkpoint could not be read back: {named[1] if named else error}") from error
    content = {
        "epoch": int(epoch),
        "arch": arch,
        "state_dict": dict(state_dict),
        "optimizer": dict(optimizer),
        METADATA_KEY: dict(metadata),
    }
    with atomic_write(path) as file:
        torch.save(content, file)
