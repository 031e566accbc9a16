"""Where things that can be made again are kept between runs."""

import errno
import os
import tempfile
from pathlib import Path

from simsiam_eval.errors import DataError


def cache_folder() -> Path:
    """$SIMSIAM_EVAL_CACHE, else $XDG_CACHE_HOME/simsiam-eval, else ~/.cache/simsiam-eval (where the user has no home: among
    the temporary files); it may not exist yet."""
    if own := os.environ.get("SIMSIAM_EVAL_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "simsiam-eval"
    if (home := os.path.expanduser("~")) == "~":
        return Path(tempfile.gettempdir(), f"simsiam-eval-{os.getuid()}")
    return Path(home, ".cache", "simsiam-eval")


def make_cache_folder(folder: Path) -> None:
    """Make a folder of the cache.

    Raises:
        DataError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(
            f"The cache {folder} cannot be written ({reason}): name another folder in $SIMSIAM_EVAL_CACHE."
        ) from error
