"""`manifest:` a table (CSV, TSV, Parquet or JSON lines) with a column of paths and an optional column of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.path_list import reject_missing_images
from simsiam_eval.sources.split_column import are_splits, split_in_column
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.sources.table_rows import FORMATS, TableRows
from simsiam_eval.vocabulary import NO_LABEL
from simsiam_eval.wording import first_few

_SHOWN_COLUMNS = 8


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
    rows = TableRows(file, options.get("path"), options.get("label"))
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
    if rows.columns.label is None and rows.columns.others:
        listed = first_few(list(map(repr, rows.columns.others)), _SHOWN_COLUMNS)
        source.notes.append(f"no column 'label', so there are no labels; name one of {listed} with #label=COLUMN")
    return source


def has_splits(file: Path) -> bool:
    """Whether a column of a table names splits."""
    return bool(_splits(TableRows(file, None, None)))


def _splits(rows: TableRows) -> set[str]:
    """The distinct values of the column of a table that names splits; none without one."""
    column = rows.columns.split
    values = set() if column is None else {value.strip() for chunk in rows.chunks() for _, _, value in chunk}
    return values if column is not None and are_splits(column, values) else set()


def _chosen_split(rows: TableRows, spec: str, requested: str | None, default: str | None) -> str | None:
    column, splits = rows.columns.split, _splits(rows)
    if column is None or not splits:
        return choose_split((), requested, default, spec)
    return split_in_column(column, splits, requested, default, spec)
