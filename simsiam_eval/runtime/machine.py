"""The machine: usable cores, the number of decoding processes, and versions of packages that affect results."""

import importlib.metadata
import os
import platform
import tempfile

from simsiam_eval.errors import DataError

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
    """Number of cores that this process may run on; of all cores where the system does not say (not Linux)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_processes() -> int:
    """Number of processes of this run on this machine, as torchrun says; all of them under a launcher that does not say."""
    world = os.environ.get("WORLD_SIZE") if "RANK" in os.environ else None
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or world or 1))


def thread_count() -> int:
    """Number of usable cores of this process's share of the machine, at most 16: of threads that wait for the disk."""
    return max(1, min(16, usable_cores() // local_processes()))


def worker_count(workers: int | None, in_memory: bool = False) -> int:
    """Decoding processes of a DataLoader: as given, else one per usable core of this process's share of the machine, at
    most 16, and none for images in memory.

    Raises:
        DataError: they have no folder for temporary files; they would wait for each other forever.
    """
    if workers is None:
        workers = 0 if in_memory else thread_count()
    if workers:
        try:
            tempfile.gettempdir()
        except FileNotFoundError as error:
            raise DataError(
                "Decoding processes need a folder for temporary files, and none is writable: set $TMPDIR to one, or use "
                "--workers 0."
            ) from error
    return workers


def versions() -> dict[str, str]:
    """Versions of Python and of these packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def version(package: str) -> str:
    """Version of an installed package; "unknown" if there is none, as when this program runs from its source.

    >>> version("no-such-package")
    'unknown'
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
