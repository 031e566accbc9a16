"""`manifest:` a table (CSV, TSV or Parquet) with a column of paths and an optional column of labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.path_list import reject_missing_images

FORMATS = (".csv", ".tsv", ".parquet")
_CHUNK_ROWS = 65536


def open_manifest(file: Path, spec: str, options: Mapping[str, str]) -> PathSource:
    """Rows in the order of the table; relative paths start at the table's folder; id = the path as written.

    Labels that are all whole numbers from 0 stay as they are; others are class names, numbered in sorted order; an empty
    cell is no label.

    Args:
        options: path: the column of the paths, default `path`; label: the column of the labels, default `label` if there
            is one.

    Raises:
        DataError: not a table, a column is missing, a row is malformed, a path is empty, none of the first images exists.
    """
    if file.suffix.lower() not in FORMATS:
        raise DataError(f"{file} is not a manifest; expected a {', '.join(FORMATS)} file.")
    read_rows = _parquet_rows if file.suffix.lower() == ".parquet" else _text_rows
    paths, labels = PackedTexts(), Labels()
    rows = read_rows(file, options.get("path", "path"), options.get("label"))
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        if "" in (path for path, _ in chunk):
            number = len(paths) + [path for path, _ in chunk].index("") + 1
            raise DataError(f"{file}, row {number}: the path is empty.")
        paths.extend(path for path, _ in chunk)
        labels.extend(label.strip() for _, label in chunk)
    if not len(paths):
        raise DataError(f"{file} has no rows.")
    reject_missing_images(paths, file)
    return PathSource(paths, *labels.numbered(), spec=spec, folder=file.parent)


def _columns(file: Path, names: list[str], path: str, label: str | None) -> tuple[str, str | None]:
    for column in (path, label):
        if column is not None and column not in names:
            raise DataError(f"{file} has no column {column!r}; expected one of {', '.join(names)}.")
    return path, label or ("label" if "label" in names else None)


def _text_rows(file: Path, path: str, label: str | None) -> Iterator[tuple[str, str]]:
    """(path, label or "") of each row."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
            names = [name.strip() for name in next(table, [])]
            if not names:
                raise DataError(f"{file} is empty.")
            path, label = _columns(file, names, path, label)
            path_index, label_index = names.index(path), names.index(label) if label else None
            for number, row in enumerate(filter(None, table), start=1):
                if len(row) != len(names):
                    raise DataError(
                        f"{file}, row {number}: expected {len(names)} cells as in the header, got {len(row)}."
                    )
                yield row[path_index], row[label_index] if label_index is not None else ""
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table: {error}.") from error


def _parquet_rows(file: Path, path: str, label: str | None) -> Iterator[tuple[str, str]]:
    """(path, label or "") of each row."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError('Parquet manifests require pyarrow: pip install "simsiam-eval[parquet]".') from error
    try:
        with parquet.ParquetFile(file) as table:
            path, label = _columns(file, table.schema_arrow.names, path, label)
            for batch in table.iter_batches(_CHUNK_ROWS, columns=[path, label] if label else [path]):
                columns = [
                    ["" if value is None else str(value) for value in batch.column(name).to_pylist()]
                    for name in (path, label)
                    if name
                ]
                yield from zip(columns[0], columns[1] if label else [""] * len(columns[0]), strict=True)
    except (OSError, ArrowException) as error:
        raise DataError(f"{file} is not a Parquet file, or it is damaged.") from error
