"""Variables of MATLAB files before version 7.3, which is HDF5."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import ForeignArray, sliced_array, text_array
from simsiam_eval.features.foreign.hdf5 import hdf5_arrays


def matlab_arrays(path: Path) -> list[ForeignArray]:
    """The numeric variables of a .mat file, read as a whole.

    thingsvision writes one variable of one row for each image: they become one array `features`, with the `ids`.

    Raises:
        DataError: not a .mat file.
    """
    if h5py.is_hdf5(path):
        return hdf5_arrays(path)
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # a damaged file can raise any exception
        raise DataError(f"{path} is not a MATLAB file, or it is damaged ({error}).") from error
    variables = {
        name: np.asarray(value)
        for name, value in content.items()
        if not name.startswith("__") and np.asarray(value).dtype.kind in "fiu"
    }
    shapes = {value.shape for value in variables.values()}
    if len(variables) > 1 and len(shapes) == 1 and (shape := shapes.pop())[0] == 1 and len(shape) == 2:
        return [sliced_array("features", np.concatenate([*variables.values()])), text_array("ids", [*variables])]
    # MATLAB has no vectors: labels are a row or a column.
    vectors = {name for name, value in variables.items() if len(variables) > 1 and value.ndim == 2 and 1 in value.shape}
    return [sliced_array(name, value.ravel() if name in vectors else value) for name, value in variables.items()]
