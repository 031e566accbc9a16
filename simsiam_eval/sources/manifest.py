"""`manifest:` a table (CSV, TSV, Parquet) with a column of paths and, where there is one, a column of labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts

FORMATS = (".csv", ".tsv", ".parquet")
_AT_ONCE = 65536  # rows
_LOOKED_FOR = 100  # paths


def open_manifest(file: Path, spec: str, options: Mapping[str, str]) -> PathSource:
    """Rows in the table's order; relative paths start at the table's folder; id = the path as written.

    Labels that are all whole numbers from 0 stay as they are; others are names, numbered in sorted order; an empty cell
    is no label.

    Raises:
        DataError: not a table, a column is missing, a row is broken, a path is empty, none of the first images is there.
    """
    if file.suffix.lower() not in FORMATS:
        raise DataError(f"A manifest is a {', '.join(FORMATS)} file, not {file}.")
    read = _parquet if file.suffix.lower() == ".parquet" else _text
    paths, labels, rows = PackedTexts(), Labels(), read(file, options.get("path", "path"), options.get("label"))
    while chunk := list(islice(rows, _AT_ONCE)):
        if "" in (path for path, _ in chunk):
            number = len(paths) + [path for path, _ in chunk].index("") + 1
            raise DataError(f"{file}, row {number}: the path is empty.")
        paths.extend(path for path, _ in chunk)
        labels.extend(label.strip() for _, label in chunk)
    if not len(paths):
        raise DataError(f"{file} has no rows.")
    refuse_if_none_exists(paths, file)
    return PathSource(paths, *labels.numbered(), spec=spec, folder=file.parent)


def refuse_if_none_exists(paths: PackedTexts, file: Path) -> None:
    """Paths that start at another folder than the file's would else be as many unreadable images.

    Raises:
        DataError: none of the first hundred is there.
    """
    first = paths.under(file.parent)[:_LOOKED_FOR]
    if not any(map(os.path.lexists, first)):
        raise DataError(
            f"None of the first {len(first)} images of {file} is there (the first: {first[0]}): write paths that start "
            "at its folder, or absolute ones."
        )


def _columns(file: Path, names: list[str], path: str, label: str | None) -> tuple[str, str | None]:
    for column in (path, label):
        if column is not None and column not in names:
            raise DataError(f"{file} has no column {column!r}; it has: {', '.join(names)}.")
    return path, label or ("label" if "label" in names else None)


def _text(file: Path, path: str, label: str | None) -> Iterator[tuple[str, str]]:
    """(path, label or "") of each row."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.reader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
            names = [name.strip() for name in next(table, [])]
            if not names:
                raise DataError(f"{file} is empty.")
            path, label = _columns(file, names, path, label)
            at, of = names.index(path), names.index(label) if label else None
            for number, row in enumerate(filter(None, table), start=1):
                if len(row) != len(names):
                    raise DataError(f"{file}, row {number}: {len(row)} cells where the header has {len(names)}.")
                yield row[at], row[of] if of is not None else ""
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table: {error}.") from error


def _parquet(file: Path, path: str, label: str | None) -> Iterator[tuple[str, str]]:
    """(path, label or "") of each row."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError('Parquet manifests need pyarrow: pip install "simsiam-eval[parquet]".') from error
    try:
        with parquet.ParquetFile(file) as table:
            path, label = _columns(file, table.schema_arrow.names, path, label)
            for batch in table.iter_batches(_AT_ONCE, columns=[path, label] if label else [path]):
                texts = [
                    ["" if value is None else str(value) for value in batch.column(name).to_pylist()]
                    for name in (path, label)
                    if name
                ]
                yield from zip(*texts, strict=True) if label else ((one, "") for one in texts[0])
    except (OSError, ArrowException) as error:
        raise DataError(f"{file} is not a Parquet file, or it is damaged.") from error
