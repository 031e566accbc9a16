"""`svhn:` SVHN's cropped digits (format 2): train_32x32.mat, test_32x32.mat, extra_32x32.mat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.pixel_rows import ArrayRows, array_labels
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.vocabulary import NO_LABEL

SUFFIX = "_32x32.mat"
_SPLITS = ("train", "test", "extra")
_ZERO = 10  # the label of the digit 0


def open_svhn(
    path: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> ArrayRows:
    """Rows in the order of the file; ids such as train/00000042; labels are the digits 0 to 9.

    Args:
        path: the folder of the files, or one of them.
        options: split: train, test or extra.
        default_split: train or test, used where the options name none.
        no_label: as of `Labels`.

    Raises:
        UsageError: `#split=none`.
        DataError: a file is missing, damaged, or of another format.
    """
    from scipy.io import loadmat

    if path.is_dir():
        found = [split for split in _SPLITS if (path / f"{split}{SUFFIX}").is_file()]
        if not found:
            raise DataError(f"{path} has no train{SUFFIX} or test{SUFFIX}; expected SVHN's cropped digits (format 2).")
        split = choose_split(found, options.get("split"), default_split, spec)
        if split is None:
            raise UsageError(f"{spec}: the splits of SVHN cannot be joined; choose one of {', '.join(found)}.")
        path = path / f"{split}{SUFFIX}"
    elif "split" in options:
        raise UsageError(f"{spec}: {path.name} is one split; remove #{options['split']}.")
    try:
        arrays = loadmat(path, variable_names=["X", "y"])
        pixels, values = arrays["X"], arrays["y"]
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path} is damaged or not SVHN's format 2 (arrays X and y): {error}.") from error
    if pixels.ndim != 4 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise DataError(f"X of {path} is {pixels.dtype} {pixels.shape}; expected uint8 (32,32,3,N).")
    if values.size and not 0 <= values.min() <= values.max() <= _ZERO:
        raise DataError(f"y of {path} has labels from {values.min()} to {values.max()}; expected 1 to {_ZERO}.")
    labels = array_labels(np.where(values == _ZERO, 0, values), pixels.shape[3], f"y of {path}", no_label)
    rows = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))
    name = path.name.removesuffix(SUFFIX)
    return ArrayRows(spec, rows, *labels.numbered(f"y of {path}"), name, f"X of {path}")
