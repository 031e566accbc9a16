"""The cache folder, for results that can be recomputed."""

import errno
import os
import tempfile
from pathlib import Path

from simsiam_eval.errors import DataError


def cache_folder() -> Path:
    """$SIMSIAM_EVAL_CACHE, else $XDG_CACHE_HOME/simsiam-eval, else ~/.cache/simsiam-eval; it may not exist yet.

    For a user without a home directory it is in the folder of temporary files.
    """
    if folder := os.environ.get("SIMSIAM_EVAL_CACHE"):
        return Path(folder)
    if xdg_cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg_cache) / "simsiam-eval"
    if (home := os.path.expanduser("~")) == "~":
        return Path(tempfile.gettempdir(), f"simsiam-eval-{os.getuid()}")
    return Path(home, ".cache", "simsiam-eval")


def make_cache_folder(folder: Path) -> None:
    """Create a folder of the cache.

    Raises:
        DataError: it cannot be created or is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(
            f"The cache folder {folder} cannot be written ({reason}): set $SIMSIAM_EVAL_CACHE to another folder."
        ) from error
