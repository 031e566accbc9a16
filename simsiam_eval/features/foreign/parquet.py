"""Columns of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import TEXT, ForeignArray, rows_per_block
from simsiam_eval.features.foreign.numbered import gap, numbered_groups

if TYPE_CHECKING:
    import pyarrow


def parquet_arrays(path: Path) -> list[ForeignArray]:
    """The columns of a Parquet file: lists of numbers, text, numbers, and numbered columns as one matrix.

    Raises:
        DataError: pyarrow is missing, or this is not a Parquet file.
    """
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} is not a Parquet file, or it is damaged ({error}).") from error
    numeric = [field.name for field in schema if _is_number(field.type)]
    groups = numbered_groups(numeric)
    arrays = [_matrix(path, name, members, schema, rows) for name, members in groups.items()]
    grouped = {member for members in groups.values() for member in members}
    return arrays + [_column(path, field, rows) for field in schema if field.name not in grouped]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError("Parquet files require pyarrow: pip install pyarrow.") from error
    return pyarrow, parquet


def _is_number(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_floating(kind) or types.is_integer(kind)


def _matrix(path: Path, name: str, members: Sequence[str], schema: pyarrow.Schema, rows: int) -> ForeignArray:
    """Numbered columns as one array (N,D)."""
    dtype = np.result_type(*(schema.field(member).type.to_pandas_dtype() for member in members))

    def blocks() -> Iterator[NDArray[Any]]:
        for batch in _batches(path, members, rows_per_block((rows, len(members)), dtype.itemsize)):
            yield np.column_stack([batch[member].to_numpy(zero_copy_only=False) for member in members])

    missing = gap(members)
    problem = None if missing is None else f"is incomplete ({missing})"
    return ForeignArray(name, (rows, len(members)), dtype, blocks, problem)


def _column(path: Path, field: pyarrow.Field, rows: int) -> ForeignArray:
    from pyarrow import types

    kind = field.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return ForeignArray(field.name, (rows,), TEXT, lambda: _values(path, field.name))
    if _is_number(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
        return ForeignArray(field.name, (rows,), dtype, lambda: _values(path, field.name))
    if (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) and _is_number(
        kind.value_type
    ):
        dtype = np.dtype(kind.value_type.to_pandas_dtype())
        width = kind.list_size if types.is_fixed_size_list(kind) else _first_length(path, field.name)
        step = rows_per_block((rows, width), dtype.itemsize)
        return ForeignArray(
            field.name, (rows, width), dtype, lambda: _list_blocks(path, field.name, width, dtype, step)
        )
    problem = f"has the type {field.type}; expected numbers, text, or lists of numbers"
    return ForeignArray(field.name, (rows,), TEXT, lambda: iter(()), problem)


def _batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pyarrow.RecordBatch]:
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):  # of all at once, pyarrow keeps more than one in memory
                yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=list(columns))
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} is damaged ({error}); copy it again.") from error


def _values(path: Path, name: str) -> Iterator[NDArray[Any]]:
    """The values of a column of text or numbers as objects, None for null."""
    for batch in _batches(path, [name], 1 << 13):
        yield np.array(batch.column(0).to_pylist(), dtype=object)


def _first_length(path: Path, name: str) -> int:
    """The length of the first list of a column; 0 without one."""
    for batch in _batches(path, [name], 64):
        for values in batch.column(0).to_pylist():
            if values is not None:
                return len(values)
    return 0


def _list_blocks(path: Path, name: str, width: int, dtype: np.dtype, step: int) -> Iterator[NDArray[Any]]:
    """Lists as rows (B,D); a row of NaN for null."""
    first = 0
    for batch in _batches(path, [name], step):
        column = batch.column(0)
        present = np.asarray(column.is_valid())
        lengths = np.array(column.drop_null().value_lengths().to_numpy(zero_copy_only=False))
        if (lengths != width).any():
            row = first + int(np.flatnonzero(present)[lengths != width][0])
            raise DataError(
                f"{path} has {int(lengths[lengths != width][0])} values in row {row} of {name}; expected {width}, as in "
                "the first row."
            )
        values = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        if not present.all():
            rows = np.full((len(column), width), np.nan, dtype=np.result_type(dtype, np.float32))
            rows[present] = values
            values = rows
        yield values
        first += len(column)
