"""Whether torch.compile can build its kernels here: it calls the machine's own compiler, in the middle of the work."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from simsiam_eval.errors import UsageError


def refuse_without_compiler(device: torch.device) -> None:
    """Of kernels for `device`: C++ for a CPU; for a GPU C, and Python's headers, which Triton's launchers include.

    Raises:
        UsageError: it is not there.
    """
    if device.type == "cpu":
        if not _found("CXX", "g++", "clang++"):
            raise UsageError("--compile needs a C++ compiler (g++ or clang++): install one, or leave it off.")
        return
    if not _found("CC", "gcc", "clang"):
        raise UsageError("--compile needs a C compiler (gcc or clang): install one, or leave it off.")
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's own has no headers
    if not Path(sysconfig.get_path("include", scheme), "Python.h").exists():
        raise UsageError("--compile needs Python's headers (Debian: python3-dev): install them, or leave it off.")


def _found(variable: str, *names: str) -> bool:
    named = os.environ.get(variable)
    return any(shutil.which(name) for name in ([named.split()[0]] if named and named.split() else names))
