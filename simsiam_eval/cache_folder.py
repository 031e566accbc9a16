"""Where things that can be made again are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$SIMSIAM_EVAL_CACHE, else $XDG_CACHE_HOME/simsiam-eval, else ~/.cache/simsiam-eval; it may not exist yet."""
    if own := os.environ.get("SIMSIAM_EVAL_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "simsiam-eval"
