"""Filters (compressors) of HDF5 datasets that HDF5 does not have by itself."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from simsiam_eval.errors import DataError

if TYPE_CHECKING:
    import h5py

# Those of the package hdf5plugin, by their registered numbers.
_OF_HDF5PLUGIN = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}


def require_filters(dataset: h5py.Dataset, where: str) -> None:
    """Load hdf5plugin if a dataset is compressed with one of its filters.

    Args:
        where: names the dataset in messages.

    Raises:
        DataError: a filter is missing.
    """
    import h5py

    properties = dataset.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if h5py.h5z.filter_avail(code):
            continue
        installed = importlib.util.find_spec("hdf5plugin") is not None
        if installed:
            importlib.import_module("hdf5plugin")  # registers its filters
            if h5py.h5z.filter_avail(code):
                continue
        known = _OF_HDF5PLUGIN.get(code) or name.decode(errors="backslashreplace") or "unknown"
        install = (
            "pip install hdf5plugin"
            if code in _OF_HDF5PLUGIN and not installed
            else "install its plugin and set HDF5_PLUGIN_PATH, or write the file with gzip"
        )
        raise DataError(
            f"{where} is compressed with the HDF5 filter {known} ({code}), which is not installed: {install}."
        )
