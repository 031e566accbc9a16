"""The neighbors of all images, in a temporary file until they are written with the rest of a row."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.files.atomic import cannot_write


class NeighborsFile:
    """K neighbors of each of N images, appended in order; read in blocks. The file has no name and ends with the process.

    Args:
        folder: where the file lies.
        count: N. kept: K, of the neighbors that are appended.

    Raises:
        DataError: it cannot be written.
    """

    def __init__(self, folder: Path, count: int, kept: int) -> None:
        self.kept = min(kept, count - 1)
        self._row = np.dtype([("similarity", np.float32, (self.kept,)), ("row", np.int64, (self.kept,))])
        self._folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise cannot_write(folder, error) from error

    def append(self, similarities: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """The neighbors (B,>=K) of the next images, the most similar first; row -1: none. Raises DataError."""
        block = np.empty(len(rows), self._row)
        block["similarity"], block["row"] = similarities[:, : self.kept], rows[:, : self.kept]
        try:
            self._file.write(block.tobytes())
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def read(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities (B,K) and rows (B,K) of the images from `start` to `stop`."""
        self._file.seek(start * self._row.itemsize)
        block = np.frombuffer(self._file.read((stop - start) * self._row.itemsize), self._row)
        return block["similarity"], block["row"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
