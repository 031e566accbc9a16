"""`manifest:` a table (CSV, TSV, Parquet) with a column of paths and, where there is one, a column of labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource

FORMATS = (".csv", ".tsv", ".parquet")


def open_manifest(file: Path, spec: str, path_column: str = "path", label_column: str | None = None) -> PathSource:
    """Rows in the table's order; relative paths start at the table's folder; id = the path as written.

    Labels that are all whole numbers from 0 stay as they are; others are names, numbered in sorted order; an empty cell
    is no label.

    Raises:
        DataError: not a table, a column is missing, a row is broken, a path is empty.
    """
    if file.suffix.lower() not in FORMATS:
        raise DataError(f"A manifest is a {', '.join(FORMATS)} file, not {file}.")
    names, rows = _parquet(file) if file.suffix.lower() == ".parquet" else _text(file)
    wanted = [path_column] + ([label_column] if label_column else [])
    for column in wanted:
        if column not in names:
            raise DataError(f"{file} has no column {column!r}; it has: {', '.join(names)}.")
    if label_column is None and "label" in names:
        label_column = "label"
    if not rows:
        raise DataError(f"{file} has no rows.")
    at = names.index(path_column)
    for number, row in enumerate(rows, start=1):
        if not row[at]:
            raise DataError(f"{file}, row {number}: the path is empty.")
    ids = [row[at] for row in rows]
    paths = [file.parent / name for name in ids]
    if label_column is None:
        return PathSource(paths, ids=ids, spec=spec)
    labels, class_names = _numbered([row[names.index(label_column)].strip() for row in rows])
    return PathSource(paths, labels, class_names, ids, spec)


def _numbered(values: list[str]) -> tuple[np.ndarray, list[str] | None]:
    present = {value for value in values if value}
    if present and all(value.isascii() and value.isdigit() for value in present):
        return np.array([int(value) if value else -1 for value in values], dtype=np.int64), None
    names = sorted(present)
    number = {name: place for place, name in enumerate(names)}
    return np.array([number.get(value, -1) for value in values], dtype=np.int64), names or None


def _text(file: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = list(csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table: {error}.") from error
    if not table:
        raise DataError(f"{file} is empty.")
    names = [name.strip() for name in table[0]]
    rows = [row for row in table[1:] if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise DataError(f"{file}, row {number}: {len(row)} cells where the header has {len(names)}.")
    return names, rows


def _parquet(file: Path) -> tuple[list[str], list[list[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError('Parquet manifests need pyarrow: pip install "simsiam-eval[parquet]".') from error
    try:
        table = parquet.read_table(file)
    except (OSError, ArrowException) as error:
        raise DataError(f"{file} is not a Parquet file, or it is damaged.") from error
    columns = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    return list(table.column_names), [list(row) for row in zip(*columns, strict=True)]
