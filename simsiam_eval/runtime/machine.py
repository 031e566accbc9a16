"""The machine: its usable cores, and the versions of the packages that decide the numbers."""

import importlib.metadata
import os
import platform

_PACKAGES = (
    "simsiam-eval",
    "torch",
    "torchvision",
    "faiss-cpu",
    "numpy",
    "h5py",
    "scikit-learn",
    "pillow",
    "simplejpeg",
)


def usable_cores() -> int:
    """Those that this process may run on, where the system tells (Linux), else the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
