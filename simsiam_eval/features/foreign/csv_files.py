"""Columns of CSV and other tables of text (with pyarrow's parser)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import TEXT, ForeignArray
from simsiam_eval.features.foreign.numbered import gap, numbered_groups
from simsiam_eval.files.text import encoding_of
from simsiam_eval.vocabulary import NO_VALUE
from simsiam_eval.wording import first_few

_PARSED_BYTES = 1 << 24  # of text at once; a line must fit
_DELIMITERS = ",;\t| "


@dataclass(frozen=True)
class _Table:
    """How a file is parsed.

    Attributes:
        columns: the names in its header line; f0, f1, ... without one.
    """

    path: Path
    delimiter: str
    columns: tuple[str, ...]
    has_header: bool

    def batches(self, columns: Sequence[str], kind: str) -> Iterator[Any]:
        """Record batches of these columns, as `string` or `float`."""
        arrow, reader = _pyarrow()
        try:
            with reader.open_csv(
                self.path,
                reader.ReadOptions(
                    block_size=_PARSED_BYTES,
                    autogenerate_column_names=not self.has_header,
                    encoding=encoding_of(self.path).removesuffix("-sig"),  # pyarrow skips the mark of UTF-8
                ),
                reader.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                reader.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, arrow.float32() if kind == "float" else arrow.string()),
                    strings_can_be_null=True,
                    null_values=["", *NO_VALUE] if kind == "float" else [""],
                ),
            ) as stream:
                yield from stream
        except (OSError, arrow.ArrowException) as error:
            raise DataError(f"{self.path} cannot be read as a table: {_plain(error)}.") from error


def csv_arrays(path: Path) -> list[ForeignArray]:
    """The columns of a table of text: numbered ones as one matrix, the others as text.

    Raises:
        DataError: pyarrow is missing, or this is not a table.
    """
    table = _opened(path)
    groups = numbered_groups(table.columns)
    grouped = {member for members in groups.values() for member in members}
    others = [name for name in table.columns if name not in grouped]
    rows, texts = _texts(table, others or [table.columns[0]])
    arrays = [_matrix(table, name, members, rows) for name, members in groups.items()]
    return arrays + [_text(name, rows, texts[name]) for name in others]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import csv as reader
    except ImportError as error:
        raise DataError("CSV files require pyarrow: pip install pyarrow.") from error
    return pyarrow, reader


def _opened(path: Path) -> _Table:
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            line = file.readline(_PARSED_BYTES)
            delimiter = max(_DELIMITERS, key=line.count)
            first = next(csv.reader([line, *file.readlines(1)], delimiter=delimiter), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table of UTF-8 text ({error}).") from error
    if not first:
        raise DataError(f"{path} begins with an empty line; expected a header line such as filename,embedding_0,...")
    repeated = sorted(name for name in set(first) if first.count(name) > 1)
    if repeated and not all(map(_is_number, first)):
        raise DataError(f"{path} has two columns called {repeated[0]!r} in its header line; rename one.")
    if not all(map(_is_number, first)) or _looks_numbered(first):
        return _Table(path, delimiter, tuple(first), True)
    whole = [index for index, cell in enumerate(first) if cell.strip().lstrip("+-").isdigit()]
    if whole and len(whole) < len(first):
        raise DataError(
            f"{path} has no header line, and column {whole[0] + 1} ({first[whole[0]]}) may be an id, a label or a feature; "
            "add a header line such as filename,embedding_0,embedding_1,...,label."
        )
    return _Table(path, delimiter, tuple(f"f{index}" for index in range(len(first))), False)


def _looks_numbered(first: Sequence[str]) -> bool:
    """Whether a line of numbers is the header 0,1,2,... that pandas writes."""
    start = first[0].strip()
    return (
        len(first) > 1
        and start in ("0", "1")
        and [cell.strip() for cell in first] == [str(int(start) + index) for index in range(len(first))]
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _texts(table: _Table, names: Sequence[str]) -> tuple[int, dict[str, list[Any]]]:
    """The number of rows, and the columns in pyarrow's chunks."""
    rows = 0
    chunks: dict[str, list[Any]] = {name: [] for name in names}
    for batch in table.batches(names, "string"):
        rows += len(batch)
        for name in names:
            chunks[name].append(batch[name])
    return rows, chunks


def _text(name: str, rows: int, chunks: Sequence[Any]) -> ForeignArray:
    def blocks() -> Iterator[NDArray[Any]]:
        return (np.array(chunk.to_pylist(), dtype=object) for chunk in chunks)

    return ForeignArray(name, (rows,), TEXT, blocks)


def _matrix(table: _Table, name: str, members: Sequence[str], rows: int) -> ForeignArray:
    def blocks() -> Iterator[NDArray[Any]]:
        for batch in table.batches(members, "float"):
            yield np.column_stack([column.to_numpy(zero_copy_only=False) for column in batch.columns])

    missing = gap(members)
    problem = None if missing is None else f"is incomplete ({missing})"
    return ForeignArray(name, (rows, len(members)), np.dtype(np.float32), blocks, problem)


def _plain(error: Exception) -> str:
    """pyarrow's message in one line."""
    return first_few(str(error).rstrip(".").splitlines() or [type(error).__name__], 1)
