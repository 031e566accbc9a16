"""Files of columns and row groups: Parquet, and Arrow as `save_to_disk` of Hugging Face datasets writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.errors import DataError

if TYPE_CHECKING:
    import pyarrow

PARQUET, ARROW = ".parquet", ".arrow"


class ColumnarFile:
    """An open file.

    Attributes:
        schema: its columns.
        group_rows: the number of rows of each row group.

    Raises:
        DataError: pyarrow is missing, or this is not such a file.
    """

    def __init__(self, file: Path) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            name = "Arrow" if file.suffix.lower() == ARROW else "Parquet"
            raise DataError(f"{name} files require pyarrow: pip install pyarrow.") from error
        self._file = file
        self._batches: list[Any] = []
        self._parquet: Any = None
        with _damaged(file):
            if file.suffix.lower() == ARROW:
                # Mapped, not read: the batches are views of the file.
                self._batches, self.schema = _batches(pyarrow, pyarrow.memory_map(str(file)))
                self.group_rows = [batch.num_rows for batch in self._batches]
            else:
                self._parquet = parquet.ParquetFile(file)
                metadata = self._parquet.metadata
                self.group_rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
                self.schema = self._parquet.schema_arrow

    def group(self, number: int, column: str) -> pyarrow.ChunkedArray:
        """A column of one row group. Raises OSError, pyarrow.ArrowException."""
        import pyarrow

        if self._parquet is None:
            return pyarrow.chunked_array([self._batches[number].column(column)])
        return self._parquet.read_row_group(number, columns=[column]).column(0)

    def column(self, name: str) -> pyarrow.ChunkedArray:
        """A whole column, or a field of a struct (`image.path`).

        Raises:
            DataError: there is no such column, or the file is damaged.
        """
        import pyarrow

        with _damaged(self._file):
            if self._parquet is not None:
                columns = self._parquet.read(columns=[name])
                if not columns.num_columns:
                    raise DataError(f"{self._file} has no column {name!r}.")
                return columns.column(0)
            table = pyarrow.Table.from_batches(self._batches, self.schema)
            first, _, field = name.partition(".")
            if name in table.column_names:
                return table.column(name)
            if first not in table.column_names or not pyarrow.types.is_struct(table.schema.field(first).type):
                raise DataError(f"{self._file} has no column {name!r}.")
            return pyarrow.compute.struct_field(table.column(first), field)


def _batches(pyarrow: Any, source: Any) -> tuple[list[Any], pyarrow.Schema]:
    """The batches of Arrow's stream format, which save_to_disk writes, or of its file format."""
    from pyarrow import ipc

    if source.read(6) == b"ARROW1":
        reader = ipc.open_file(source)
        return [reader.get_batch(number) for number in range(reader.num_record_batches)], reader.schema
    source.seek(0)
    stream = ipc.open_stream(source)
    return list(stream), stream.schema


@contextmanager
def _damaged(file: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        name = "an Arrow" if file.suffix.lower() == ARROW else "a Parquet"
        raise DataError(f"{file} is not {name} file, or it is damaged.") from error
