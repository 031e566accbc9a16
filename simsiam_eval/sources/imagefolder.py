"""`imagefolder:` folders of images with a metadata.csv or .jsonl, as on Hugging Face's Hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.columnar_file import ColumnarFile
from simsiam_eval.sources.manifest import has_splits, open_manifest
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.splits import choose_folder, choose_split
from simsiam_eval.sources.table_rows import FILE_NAME
from simsiam_eval.vocabulary import NO_LABEL

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_LONGEST_HEADER = 1 << 20


def open_imagefolder(
    path: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> PathSource:
    """Rows in the order of the table; id = the path in its column `file_name`.

    Args:
        path: a folder with the table, or with split folders that have one each.
        options: label: the column of the labels, default `label` if there is one; `none`: no labels; split: one of the
            split folders.
        default_split: train or test, used where there are split folders and the options name none.
        no_label: as of `Labels`, which numbers the labels.

    Raises:
        DataError: no table, several, or as `open_manifest`; a split that must be chosen or does not exist.
    """
    table = metadata_of(path)
    columns = {"label": options["label"]} if options.get("label", "none") != "none" else {}
    if table is None:
        splits = [folder.name for folder in path.iterdir() if folder.is_dir() and metadata_of(folder)]
        if not splits:
            raise DataError(f"{path} has no {', '.join(METADATA)}, nor have its folders.")
        split = choose_split(splits, options.get("split"), default_split, spec)
        if split is None:
            raise DataError(f"{spec}: the tables of {', '.join(sorted(splits))} cannot be joined; choose one of them.")
        table = metadata_of(path / split)
        assert table is not None
        source = open_manifest(table, spec, columns, no_label=no_label)
    else:
        source = _of_table(table, spec, columns, options.get("split"), default_split, no_label)
    if options.get("label") == "none":
        source.labels, source.class_names = np.full(len(source), -1), None
    return source


def is_imagefolder(path: Path, folders: Iterable[str]) -> bool:
    """Whether a folder, or one of these folders in it, has a table with the column `file_name`."""
    places = [path, *(path / name for name in folders)]
    return any((folder / name).is_file() and _has_file_names(folder / name) for folder in places for name in METADATA)


def _has_file_names(table: Path) -> bool:
    if table.suffix == ".parquet":
        return FILE_NAME in ColumnarFile(table).schema.names
    with table.open("rb") as file:
        return FILE_NAME.encode() in file.readline(_LONGEST_HEADER).replace(b"\0", b"")  # also in UTF-16


def metadata_of(folder: Path) -> Path | None:
    """The table in a folder, if any. Raises DataError: there are several."""
    tables = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{folder} has {' and '.join(table.name for table in tables)}; remove all but one.")
    return tables[0] if tables else None


def _of_table(
    table: Path,
    spec: str,
    columns: dict[str, str],
    split: str | None,
    default_split: str | None,
    no_label: Sequence[str],
) -> PathSource:
    """The images of one split, which a column of the table or the paths in it name."""
    if has_splits(table):
        chosen = columns if split is None else {**columns, "split": split}
        return open_manifest(table, spec, chosen, default_split, no_label)
    return _of_split(open_manifest(table, spec, columns, no_label=no_label), split, default_split)


def _of_split(source: PathSource, split: str | None, default_split: str | None) -> PathSource:
    """The images of one split where the paths in the table begin with split folders."""
    inside: dict[str, set[str]] = {}
    for name in source.ids:
        first, *others = name.removeprefix("./").split("/")[:-1] or [""]
        inside.setdefault(first, set()).update(others[:1])
    if "" in inside:
        choose_split((), split, default_split, source.spec)
        return source
    chosen = choose_folder(sorted(inside), inside.__getitem__, split, default_split, source.spec)
    if chosen is None:
        return source
    rows = [row for row, name in enumerate(source.ids) if name.removeprefix("./").startswith(f"{chosen}/")]
    names = PackedTexts(source.ids[row] for row in rows)
    part = PathSource(names, source.labels[rows], source.class_names, spec=source.spec, folder=source.paths.folder)
    part.notes += source.notes
    return part
