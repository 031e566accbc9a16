"""`manifest:` a table (CSV, TSV, Parquet or JSON lines) with a column of paths and an optional column of labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import encoding_of
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.path_list import reject_missing_images
from simsiam_eval.sources.split_column import are_splits, split_column, split_in_column
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.vocabulary import NO_LABEL
from simsiam_eval.wording import first_few

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl")
FILE_NAME = "file_name"  # the column of the paths in the metadata.csv of Hugging Face's image folders
_CHUNK_ROWS = 65536
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def open_manifest(
    file: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> PathSource:
    """Rows in the order of the table; relative paths start at the table's folder; id = the path as written.

    Args:
        options: path: the column of the paths, default `path` in any case, or `file_name`; label: the column of the
            labels, default `label` in any case, if there is one; split: which rows, where a column names their split.
        default_split: train or test, used where there is such a column and the options name no split.
        no_label: as of `Labels`, which numbers the labels.

    Raises:
        DataError: not a table, a column is missing, a row is malformed, a path is empty, none of the first images exists,
            or a split that must be chosen or does not exist.
    """
    if file.suffix.lower() not in FORMATS:
        raise DataError(f"{file} is not a manifest; expected a {', '.join(FORMATS)} file.")
    rows = _Rows(file, options.get("path"), options.get("label"))
    split = _chosen_split(rows, spec, options.get("split"), default_split)
    paths, labels, read = PackedTexts(), Labels(no_label), 0
    for chunk in rows.chunks():
        if "" in (path for path, _, _ in chunk):
            number = read + [path for path, _, _ in chunk].index("") + 1
            raise DataError(f"{file}, row {number}: the path is empty.")
        read += len(chunk)
        chosen = [row for row in chunk if split is None or row[2].strip() == split]
        paths.extend(path for path, _, _ in chosen)
        labels.extend(label for _, label, _ in chosen)
    if not len(paths):
        raise DataError(f"{file} has no rows.")
    reject_missing_images(paths, file)
    source = PathSource(paths, *labels.numbered(str(file)), spec=spec, folder=file.parent)
    source.notes += labels.notes()
    return source


def has_splits(file: Path) -> bool:
    """Whether a column of a table names splits."""
    return bool(_splits(_Rows(file, None, None)))


def _splits(rows: _Rows) -> set[str]:
    """The distinct values of the column of a table that names splits; none without one."""
    column = rows.columns.split
    values = set() if column is None else {value.strip() for chunk in rows.chunks() for _, _, value in chunk}
    return values if column is not None and are_splits(column, values) else set()


def _chosen_split(rows: _Rows, spec: str, requested: str | None, default: str | None) -> str | None:
    column, splits = rows.columns.split, _splits(rows)
    if column is None or not splits:
        return choose_split((), requested, default, spec)
    return split_in_column(column, splits, requested, default, spec)


class _Rows:
    """The rows of a table.

    Attributes:
        columns: those that are read.
    """

    def __init__(self, file: Path, path: str | None, label: str | None) -> None:
        self._read = partial(
            {".parquet": _parquet_rows, ".jsonl": _json_rows}.get(file.suffix.lower(), _text_rows), file
        )
        self._given = path, label
        self.columns = _Columns("", None)
        next(self._read(path, label, self._found), None)

    def chunks(self) -> Iterator[list[Row]]:
        """Blocks of (path, label or "", split or "")."""
        rows = self._read(*self._given, self._found)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            yield chunk

    def _found(self, columns: _Columns) -> None:
        self.columns = columns


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that are read, by the names that the table gives them; no label without such a column."""

    path: str
    label: str | None
    split: str | None = None  # may be something else, as its values show


Row = tuple[str, str, str]
Found = Callable[[_Columns], None]


def _columns(names: Sequence[str], path: str | None, label: str | None) -> _Columns | str:
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
    return _Columns(str(found[0]), found[1], split_column(names, found))


def _missing_column(
    file: Path, name: str, names: Sequence[str], option: str, separator: str | None = None
) -> DataError:
    how = f", separated by {_SEPARATORS[separator]}," if separator and len(names) > 1 else ""
    listed = first_few(list(map(repr, names)), 8)
    return DataError(
        f"{file} has no column {name!r}; its columns{how} are {listed}. Name the column of the {option}s with "
        f"#{option}=COLUMN."
    )


def _header(file: Path, line: str, path: str | None, label: str | None) -> tuple[str, list[str], _Columns]:
    """The separator of a table of text, the names of its columns, and those that are read.

    The separator is that of the ending, or else the only one with which the header has the columns.

    Raises:
        DataError: a column is missing, or several separators are possible.
    """
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    headers = {
        separator: [name.strip() for name in next(csv.reader([line], delimiter=separator))] for separator in _SEPARATORS
    }
    columns = {separator: _columns(names, path, label) for separator, names in headers.items()}
    possible = {separator: found for separator, found in columns.items() if isinstance(found, _Columns)}
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
    return separator, headers[separator], found


def _text_rows(file: Path, path: str | None, label: str | None, found: Found) -> Iterator[Row]:
    """(path, label or "", split or "") of each row."""
    try:
        with file.open(newline="", encoding=encoding_of(file)) as lines:
            header = lines.readline()
            if header.lower().startswith("sep="):  # a line for Excel
                header = lines.readline()
            if not header.strip():
                raise DataError(f"{file} is empty, or begins with an empty line.")
            separator, names, columns = _header(file, header, path, label)
            found(columns)
            read = [None if name is None else names.index(name) for name in astuple(columns)]
            table = csv.reader(lines, delimiter=separator, strict=True)
            for number, row in enumerate(filter(None, table), start=1):
                if len(row) != len(names):
                    raise DataError(
                        f"{file}, row {number}: expected {len(names)} cells as in the header, got {len(row)}."
                    )
                yield tuple("" if index is None else row[index] for index in read)  # type: ignore[misc]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table: {error}.") from error


def _json_rows(file: Path, path: str | None, label: str | None, found: Found) -> Iterator[Row]:
    """(path, label or "", split or "") of each line, a JSON object; the first has all keys that are read."""
    columns: _Columns | None = None
    try:
        with file.open(encoding=encoding_of(file)) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{file}, line {number}: expected a JSON object, got {type(row).__name__}.")
                if columns is None:
                    first = _columns(list(row), path, label)
                    if isinstance(first, str):
                        raise _missing_column(file, first, list(row), "label" if first == label else "path")
                    columns = first
                    found(columns)
                values = [None if name is None else row.get(name) for name in astuple(columns)]
                for value in values[:2]:
                    if isinstance(value, dict | list):
                        raise DataError(f"{file}, line {number}: expected a path and a label, got {value}.")
                yield tuple("" if value is None else str(value) for value in values)  # type: ignore[misc]
    except (OSError, ValueError) as error:  # also not JSON, and not UTF-8
        raise DataError(f"{file} cannot be read as JSON lines: {error}.") from error


def _parquet_rows(file: Path, path: str | None, label: str | None, found: Found) -> Iterator[Row]:
    """(path, label or "", split or "") of each row."""
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError as error:
        raise DataError('Parquet manifests require pyarrow: pip install "simsiam-eval[parquet]".') from error
    try:
        with parquet.ParquetFile(file) as table:
            names = table.schema_arrow.names
            columns = _columns(names, path, label)
            if isinstance(columns, str):
                raise _missing_column(file, columns, names, "label" if columns == label else "path")
            found(columns)
            kind = columns.label and table.schema_arrow.field(columns.label).type
            if kind is not None and types.is_nested(kind):
                raise DataError(
                    f"The column {columns.label!r} of {file} contains {kind}; expected whole numbers or strings as labels."
                )
            for batch in table.iter_batches(_CHUNK_ROWS, columns=[name for name in astuple(columns) if name]):
                cells = [
                    [""] * len(batch)
                    if name is None
                    else ["" if value is None else str(value) for value in batch.column(name).to_pylist()]
                    for name in astuple(columns)
                ]
                yield from zip(*cells, strict=True)  # type: ignore[misc]
    except (OSError, ArrowException) as error:
        raise DataError(f"{file} is not a Parquet file, or it is damaged.") from error
