"""Check before the work starts that torch.compile finds the compiler that it calls later."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from simsiam_eval.errors import UsageError


def require_compiler(device: torch.device) -> None:
    """Check for the compiler of kernels for `device`: C++ for a CPU; for a GPU C, and Python's headers, which Triton's
    launchers include.

    Raises:
        UsageError: one of them is missing.
    """
    if device.type == "cpu":
        if not _is_installed("CXX", "g++", "clang++"):
            raise UsageError("--compile requires a C++ compiler (g++ or clang++): install one, or omit --compile.")
        return
    if not _is_installed("CC", "gcc", "clang"):
        raise UsageError("--compile requires a C compiler (gcc or clang): install one, or omit --compile.")
    scheme = sysconfig.get_default_scheme().replace(
        "posix_local", "posix_prefix"
    )  # Debian's default scheme has no headers
    if not Path(sysconfig.get_path("include", scheme), "Python.h").exists():
        raise UsageError("--compile requires Python's headers (Debian: python3-dev): install them, or omit --compile.")


def _is_installed(variable: str, *names: str) -> bool:
    chosen = (os.environ.get(variable) or "").split()[:1]
    return any(map(shutil.which, chosen or names))
