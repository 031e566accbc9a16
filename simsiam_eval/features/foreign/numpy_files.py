"""Arrays of .npy and .npz files. Nothing is unpickled."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import ForeignArray, rows_per_block, sliced_array

_OBJECTS = "contains Python objects, which only pickle can read; save it with a numeric dtype, or text as str"
_VOID = "has the data type {}, which NumPy alone cannot read; save it as float32"


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def problem(self) -> str | None:
        if self.dtype.hasobject:
            return _OBJECTS
        return _VOID.format(self.dtype) if self.dtype.kind == "V" else None

    @property
    def data_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def npy_arrays(path: Path) -> list[ForeignArray]:
    """The array of a .npy file.

    Raises:
        DataError: not a .npy file, or a truncated one.
    """
    with path.open("rb") as file:
        header = _read_header(file, str(path))
        at = file.tell()
        size = os.fstat(file.fileno()).st_size
    if header.problem:
        return [_unreadable("", header)]
    if at + header.data_bytes > size:
        raise DataError(
            f"{path} is truncated: its header announces {at + header.data_bytes} bytes, but it has {size}; copy it again."
        )
    if not header.data_bytes or not header.shape:
        return [sliced_array("", np.empty(header.shape, header.dtype))]
    if header.fortran:
        return [sliced_array("", np.memmap(path, header.dtype, "r", at, header.shape, "F"))]
    step = rows_per_block(header.shape, header.dtype.itemsize)

    def blocks() -> Iterator[NDArray[Any]]:
        with path.open("rb") as file:  # not mapped, which would count as memory of the process
            file.seek(at)
            for start in range(0, header.shape[0], step):
                shape = (min(step, header.shape[0] - start), *header.shape[1:])
                count = int(np.prod(shape, dtype=np.int64))
                yield np.fromfile(file, header.dtype, count).reshape(shape)

    return [ForeignArray("", header.shape, header.dtype, blocks)]


def npz_arrays(path: Path) -> list[ForeignArray]:
    """The arrays of a .npz file, which are decompressed while they are read.

    Raises:
        DataError: not a .npz file, or a damaged one.
    """
    arrays = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if not member.endswith(".npy"):
                    continue
                with archive.open(member) as file:
                    header = _read_header(file, f"{path} ({member})")
                arrays.append(_member(path, member, header))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise DataError(f"{path} is not a .npz file, or it is damaged ({error}).") from error
    return arrays


def _member(path: Path, member: str, header: _Header) -> ForeignArray:
    name = member.removesuffix(".npy")
    if header.problem:
        return _unreadable(name, header)

    def blocks() -> Iterator[NDArray[Any]]:
        step = rows_per_block(header.shape, header.dtype.itemsize)
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                if header.fortran or not header.shape:  # column by column: whole, or not at all
                    yield np.lib.format.read_array(file, allow_pickle=False)
                    return
                _read_header(file, str(path))
                for start in range(0, header.shape[0], step):
                    shape = (min(step, header.shape[0] - start), *header.shape[1:])
                    count = int(np.prod(shape, dtype=np.int64))
                    data = file.read(count * header.dtype.itemsize)
                    yield np.frombuffer(data, header.dtype, count).reshape(shape)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise DataError(f"{path} is damaged ({name}: {error}); copy it again.") from error

    return ForeignArray(name, header.shape, header.dtype, blocks)


def _unreadable(name: str, header: _Header) -> ForeignArray:
    return ForeignArray(name, header.shape, header.dtype, lambda: iter(()), header.problem)


def _read_header(file: IO[bytes], name: str) -> _Header:
    """The header of NumPy's format, after which the file stands.

    Raises:
        DataError: there is none.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError, TypeError, EOFError) as error:
        raise DataError(f"{name} is not an array of NumPy (.npy), or it is damaged.") from error
    return _Header(shape, fortran, dtype)
