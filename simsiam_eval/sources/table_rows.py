"""The rows of a table of paths: CSV, TSV, Parquet or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import BYTE_ORDER_MARK, encoding_of, undecodable
from simsiam_eval.images.formats import has_image_ending
from simsiam_eval.sources.split_column import split_column
from simsiam_eval.wording import first_few

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl")
FILE_NAME = "file_name"  # the column of the paths in the metadata.csv of Hugging Face's image folders
_CHUNK_ROWS = 65536
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SHOWN_COLUMNS = 8


class TableRows:
    """The rows of a table.

    Attributes:
        columns: those that are read.
    """

    def __init__(self, file: Path, path: str | None, label: str | None) -> None:
        self._read = partial(
            {".parquet": _parquet_rows, ".jsonl": _json_rows}.get(file.suffix.lower(), _text_rows), file
        )
        self._given = path, label
        self.columns = Columns("", None)
        next(self._read(path, label, self._found), None)

    def chunks(self) -> Iterator[list[Row]]:
        """Blocks of (path, label or "", split or "")."""
        rows = self._read(*self._given, self._found)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            yield chunk

    def _found(self, columns: Columns) -> None:
        self.columns = columns


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read, by the names that the table gives them; no label without such a column."""

    path: str
    label: str | None
    split: str | None = None  # may be something else, as its values show
    others: tuple[str, ...] = ()  # those that are not read

    def read(self) -> tuple[str, str | None, str | None]:
        """The columns of a row."""
        return self.path, self.label, self.split


Row = tuple[str, str, str]
Found = Callable[[Columns], None]


def _columns(names: Sequence[str], path: str | None, label: str | None) -> Columns | str:
    """The columns with these names; None: `path` and `label` in any case. If one is missing, its name."""
    found = []
    if path is None and FILE_NAME in names and not any(name.lower() == "path" for name in names):
        path = FILE_NAME
    for given, common in ((path, "path"), (label, "label")):
        alike = [name for name in names if name.lower() == common]
        chosen = given if given is not None else common if common in alike else alike[0] if len(alike) == 1 else None
        if chosen not in names and (given is not None or common == "path"):
            return given or common
        found.append(chosen)
    split = split_column(names, found)
    others = tuple(name for name in names if name not in (*found, split))
    return Columns(str(found[0]), found[1], split, others)


def _found_columns(file: Path, names: Sequence[str], path: str | None, label: str | None) -> Columns:
    """`_columns`. Raises DataError: one is missing, or two have its name."""
    columns = _columns(names, path, label)
    if isinstance(columns, str):
        raise _missing_column(file, columns, names, "label" if columns == label else "path")
    _reject_repeated(file, names, columns)
    return columns


def _reject_repeated(file: Path, names: Sequence[str], columns: Columns) -> None:
    if repeated := [name for name in columns.read() if name is not None and names.count(name) > 1]:
        raise DataError(f"{file} has {names.count(repeated[0])} columns called {repeated[0]!r}; rename all but one.")


def _missing_column(
    file: Path, name: str, names: Sequence[str], option: str, separator: str | None = None
) -> DataError:
    if path_like := next(filter(has_image_ending, names), None):
        raise DataError(
            f"{file} has no header line: its first line contains {path_like!r}, which looks like a path; add a line such as "
            "path,label."
        )
    how = f", separated by {_SEPARATORS[separator]}," if separator and len(names) > 1 else ""
    listed = first_few(list(map(repr, names)), 8)
    return DataError(
        f"{file} has no column {name!r}; its columns{how} are {listed}. Name the column of the {option}s with "
        f"#{option}=COLUMN."
    )


def _header(file: Path, line: str, path: str | None, label: str | None) -> tuple[str, list[str], Columns]:
    """The separator of a table of text, the names of its columns, and those that are read.

    The separator is that of the ending, or else the only one with which the header has the columns.

    Raises:
        DataError: a column is missing, or several separators are possible.
    """
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    headers = {
        separator: [
            name.strip(f" \t{BYTE_ORDER_MARK}") for name in next(csv.reader([line.strip()], delimiter=separator))
        ]
        for separator in _SEPARATORS
    }
    columns = {separator: _columns(names, path, label) for separator, names in headers.items()}
    possible = {separator: found for separator, found in columns.items() if isinstance(found, Columns)}
    labeled = {separator: found for separator, found in possible.items() if found.label is not None}
    if usual in possible and (usual in labeled or not labeled):
        possible = {usual: possible[usual]}
    elif len(labeled) == 1:
        possible = labeled
    if len(possible) > 1:
        listed = " or ".join(_SEPARATORS[separator] for separator in possible)
        raise DataError(f"The columns of {file} may be separated by {listed}; write the table with one of them.")
    if not possible:
        separator = max(headers, key=lambda candidate: (len(headers[candidate]), candidate == usual))
        missing, names = str(columns[separator]), headers[separator]
        raise _missing_column(file, missing, names, "label" if missing == label else "path", separator)
    separator, found = next(iter(possible.items()))
    _reject_repeated(file, headers[separator], found)
    return separator, headers[separator], found


def _text_rows(file: Path, path: str | None, label: str | None, found: Found) -> Iterator[Row]:
    """(path, label or "", split or "") of each row."""
    try:
        with file.open(newline="", encoding=encoding_of(file)) as lines:
            header = lines.readline().removeprefix(BYTE_ORDER_MARK)
            if header.lower().startswith("sep="):  # a line for Excel
                header = lines.readline()
            if not header.strip():
                raise DataError(f"{file} is empty, or begins with an empty line.")
            separator, names, columns = _header(file, header, path, label)
            found(columns)
            read = [None if name is None else names.index(name) for name in columns.read()]
            # Files that were joined have the mark in the middle.
            table = csv.reader((line.removeprefix(BYTE_ORDER_MARK) for line in lines), delimiter=separator, strict=True)
            for number, row in enumerate(filter(None, table), start=1):
                if len(row) != len(names):
                    raise DataError(
                        f"{file}, row {number}: expected {len(names)} cells as in the header, got {len(row)}."
                    )
                if [cell.strip() for cell in row] == names:
                    raise DataError(f"{file}, row {number}: the header line is repeated; remove it.")
                yield tuple("" if index is None else row[index] for index in read)  # type: ignore[misc]
    except UnicodeDecodeError as error:
        raise undecodable(file, error) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table: {error}.") from error


def _json_rows(file: Path, path: str | None, label: str | None, found: Found) -> Iterator[Row]:
    """(path, label or "", split or "") of each line, a JSON object; the first has all keys that are read."""
    columns: Columns | None = None
    try:
        with file.open(encoding=encoding_of(file)) as lines:
            for number, line in enumerate(lines, start=1):
                line = line.removeprefix(BYTE_ORDER_MARK)
                if not line.strip():
                    continue
                row = _json_object(line, f"{file}, line {number}")
                if columns is None:
                    columns = _found_columns(file, list(row), path, label)
                    found(columns)
                values = [None if name is None else row.get(name) for name in columns.read()]
                for value in values[:2]:
                    if isinstance(value, dict | list):
                        raise DataError(f"{file}, line {number}: expected a path and a label, got {value}.")
                yield tuple("" if value is None else str(value) for value in values)  # type: ignore[misc]
    except UnicodeDecodeError as error:
        raise undecodable(file, error) from error
    except OSError as error:
        raise DataError(f"{file} cannot be read as JSON lines: {error}.") from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object in a line. Raises DataError: there is none, or it has a key twice."""

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in row if keys.count(key) > 1)
            raise DataError(f"{where}: the key {repeated!r} occurs twice; remove one.")
        return row

    try:
        row = json.loads(line.strip(), object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg.lower()} at column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
        raise DataError(f"{where}: not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}.")
    return row


def _parquet_rows(file: Path, path: str | None, label: str | None, found: Found) -> Iterator[Row]:
    """(path, label or "", split or "") of each row."""
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError as error:
        raise DataError("Parquet manifests require pyarrow: pip install pyarrow.") from error
    try:
        with parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            columns = _found_columns(file, names, path, label)
            found(columns)
            kind = columns.label and table.schema_arrow.field(columns.label).type
            if kind is not None and types.is_nested(kind):
                raise DataError(
                    f"The column {columns.label!r} of {file} contains {kind}; expected whole numbers or strings as labels."
                )
            for batch in table.iter_batches(_CHUNK_ROWS, columns=[name for name in columns.read() if name]):
                cells = [
                    [""] * len(batch)
                    if name is None
                    else ["" if value is None else str(value) for value in batch.column(name).to_pylist()]
                    for name in columns.read()
                ]
                yield from zip(*cells, strict=True)  # type: ignore[misc]
    except (OSError, ArrowException) as error:
        raise DataError(f"{file} is not a Parquet file, or it is damaged.") from error
