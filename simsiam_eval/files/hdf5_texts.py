"""Strings of HDF5 datasets, and the names of enumerated numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import label_text

if TYPE_CHECKING:
    import h5py


def is_text(dataset: h5py.Dataset) -> bool:
    """Whether the values are strings, or numbers of an enumeration, which has a name for each."""
    import h5py

    return h5py.check_string_dtype(dataset.dtype) is not None or _names(dataset) is not None


def texts(dataset: h5py.Dataset, where: str, rows: slice = slice(None), strict: bool = True) -> list[str]:
    """Rows of a dataset of text, (N,) or (N,1).

    Args:
        where: names the dataset in messages.
        strict: whether strings must be UTF-8; otherwise other bytes become surrogates.

    Raises:
        DataError: a value is not UTF-8, or not in the enumeration.
        OSError: the dataset is damaged.
    """
    values = np.asarray(dataset[rows]).reshape(-1).tolist()
    names = _names(dataset)
    if names is None:
        if strict:
            return [value if isinstance(value, str) else label_text(value, where) for value in values]
        return [value if isinstance(value, str) else value.decode("utf-8", "surrogateescape") for value in values]
    if unknown := sorted(set(values) - set(names)):
        raise DataError(f"{where} contains {unknown[0]}, which its enumeration of {len(names)} names does not have.")
    return [names[value] for value in values]


def _names(dataset: h5py.Dataset) -> dict[int, str] | None:
    import h5py

    numbers = h5py.check_enum_dtype(dataset.dtype)
    return None if numbers is None else {int(number): name for name, number in numbers.items()}
