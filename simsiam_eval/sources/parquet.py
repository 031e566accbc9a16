"""`parquet:` image bytes in a column of Parquet or Arrow files, such as Hugging Face datasets."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import open_image
from simsiam_eval.images.opened import OpenedImage, UnreadableImage, read_file
from simsiam_eval.sources.base import ImageSource, as_utf8
from simsiam_eval.sources.columnar_file import ARROW, PARQUET, ColumnarFile
from simsiam_eval.sources.file_state import file_state, files_key
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.parquet_columns import choose_columns, labels_of, rows_of_split, texts_of
from simsiam_eval.sources.per_process import PerProcess
from simsiam_eval.sources.shards import by_split, files_of, is_pattern, names_of, say_unnamed
from simsiam_eval.sources.splits import NO_SPLIT, choose_split, split_word
from simsiam_eval.vocabulary import NO_LABEL
from simsiam_eval.wording import first_few

if TYPE_CHECKING:
    import pyarrow

# A row is read with its whole row group. Several threads read a block, so a process keeps at least two groups.
_KEPT_ROWS = 1024
_OPEN_FILES = 8
_SAMPLED_GROUPS = 4
_CACHED = re.compile(r"(cache|tmp)[-_\w]*\.arrow", re.IGNORECASE)


def open_parquet(
    path: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> ParquetSource:
    """Rows in the order of the files and of the rows in them; id = the file name and the row number in that file.

    Args:
        path: a .parquet or .arrow file, a pattern (`train-{00000..00003}.parquet`, `*.parquet`), or a folder: its files at
            any depth, for example `data/train-00000-of-00002.parquet` or `train/data-00000-of-00002.arrow`.
        options: image: the column of the images, a struct with `bytes`, or bytes; label: the column of the labels,
            integers (with names if the file's `huggingface` metadata has a ClassLabel) or strings, or `none`; id: the
            column of the ids, for example `image.path`; split: one of the splits in the file names, or `none` for all.
            Common names are found without options.
        default_split: train or test, used where there are splits and the options name none.
        no_label: as of `Labels`, which numbers the labels.

    Raises:
        DataError: pyarrow is missing; files are missing, damaged, or differ in their columns; a column is missing, of the
            wrong type, or ambiguous.
    """
    files, in_names = _files(path, spec, options, default_split)
    group_rows, columns = [], choose_columns(ColumnarFile(files[0]).schema, options, files[0])
    for file in files:
        opened = ColumnarFile(file)
        if choose_columns(opened.schema, options, file) != columns:
            raise DataError(f"{file} and {files[0]} differ in their image or label columns, or in the classes.")
        group_rows.append(opened.group_rows)
    row_count = sum(map(sum, group_rows))
    if not row_count:
        raise DataError(f"{spec} has no rows.")
    requested = None if in_names else options.get("split")
    chosen = rows_of_split(files, columns, requested, default_split, spec)
    labels = labels_of(files, columns, row_count, no_label, chosen)
    where = f"The column {columns.label!r} of {files[0]}"
    ids = PackedTexts()
    for file in files if columns.id else ():
        ids.extend(map(as_utf8, texts_of(file, str(columns.id))))
    if len(ids) and chosen is not None:
        ids = PackedTexts(ids[row] for row in chosen.tolist())
    rows = None if chosen is None else hashlib.sha256(chosen.tobytes()).hexdigest()
    key = files_key(files, "parquet", 1, sorted(options.items()), columns.image, columns.label, rows)
    prefixes = names_of(files) if is_pattern(str(path)) or path.is_dir() else [path.name]
    numbers, names = labels.numbered(where, columns.classes)
    source = ParquetSource(spec, files, prefixes, columns.image, group_rows, numbers, names, ids, key, chosen)
    source.notes += labels.notes()
    return source


class ParquetSource(ImageSource):
    """Images in a column of Parquet files; the row group of a row is read whole and kept for its neighbors.

    Args:
        prefixes: the name of each file, for the ids.
        group_rows: for each file, the rows of each of its row groups.
        ids: N names; empty: file name and row number.
        key: changes whenever a file or an option does.
        chosen: (M,) which rows of the files these are; None: all.
    """

    def __init__(
        self,
        spec: str,
        files: list[Path],
        prefixes: list[str],
        column: str,
        group_rows: list[list[int]],
        labels: NDArray[np.int64],
        class_names: list[str] | None,
        ids: PackedTexts,
        key: str,
        chosen: NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__(spec, labels, class_names)
        self._files, self._prefixes, self._column, self._ids, self._key = files, prefixes, column, ids, key
        # (file, row group in it) of every row group, and the first row of each group and file
        self._groups = [(number, group) for number, rows in enumerate(group_rows) for group in range(len(rows))]
        self._group_starts = np.cumsum([0, *(rows for of_file in group_rows for rows in of_file)], dtype=np.int64)[:-1]
        self._file_starts = np.cumsum([0, *map(sum, group_rows)])
        self._chosen = chosen
        self._open_files = PerProcess(self._open, _OPEN_FILES)
        self._tables = PerProcess(self._read_group, 2 + _KEPT_ROWS * len(self._groups) // len(labels))

    def id(self, row: int) -> str:
        if len(self._ids):
            return self._ids[row]
        row = self._stored_row(row)
        number, _ = self._groups[self._group_of(row)]
        return f"{self._prefixes[number]}/{row - int(self._file_starts[number]):08d}"

    def image(self, row: int) -> OpenedImage:
        return open_image(self._content(row))

    def sample_rows(self, count: int) -> list[int]:
        """Rows of a few row groups: each is read whole."""
        if self._chosen is not None:
            return self.spaced_rows(min(count, _SAMPLED_GROUPS))
        starts = self._group_starts[np.unique(np.linspace(0, len(self._groups) - 1, _SAMPLED_GROUPS).astype(int))]
        return sorted({row for start in starts.tolist() for row in range(start, min(start + count, len(self)))})[
            : count * len(starts) : len(starts)
        ]

    def _stored_row(self, row: int) -> int:
        """The row in all files."""
        return row if self._chosen is None else int(self._chosen[row])

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._group_starts, row, side="right")) - 1

    def _open(self, number: int) -> ColumnarFile:
        return ColumnarFile(self._files[number])

    def _read_group(self, group: int) -> pyarrow.ChunkedArray:
        number, group_in_file = self._groups[group]
        return self._open_files(number).group(group_in_file, self._column)

    def _content(self, row: int) -> bytes:
        from pyarrow import ArrowException

        row = self._stored_row(row)
        group = self._group_of(row)
        try:
            value = self._tables(group)[row - int(self._group_starts[group])].as_py()
        except (OSError, ArrowException) as error:
            file = self._files[self._groups[group][0]]
            raise UnreadableImage(f"{file} cannot be read at this row: {error}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None:
            return bytes(content)
        if isinstance(value, dict) and value.get("path"):  # where images were not embedded, as save_to_disk leaves them
            path = os.path.join(self._files[self._groups[group][0]].parent, value["path"])
            if os.path.lexists(path):
                return read_file(path)
        raise UnreadableImage("the row has no image bytes")

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.array([file_state(file)[0] for file in self._files])

    def _files_key(self) -> str:
        return self._key


def _files(path: Path, spec: str, options: Mapping[str, str], default_split: str | None) -> tuple[list[Path], bool]:
    """The files to read, and whether they were chosen by the split in their names."""
    requested = options.get("split")
    if not path.is_dir():
        files = files_of(path, spec)
        named = by_split(Path(os.path.commonpath([file.parent for file in files])), files)
        if requested in (None, NO_SPLIT) or not named:
            return files, False
        return named[choose_split(named, requested, None, spec) or ""], True
    everything = sorted(path.rglob("*"))
    visible = [file for file in everything if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    by_ending = {
        ending: [file for file in visible if file.suffix.lower() == ending and file.is_file()]
        for ending in (PARQUET, ARROW)
    }
    by_ending[ARROW] = _saved_files(by_ending[ARROW])
    files = by_ending[PARQUET] or by_ending[ARROW]
    if not files:
        raise DataError(f"{path} has no {PARQUET} or {ARROW} files.")
    if by_ending[PARQUET] and by_ending[ARROW]:
        raise DataError(f"{path} has both {PARQUET} and {ARROW} files; give the folder of one of them.")
    saved = _saved_splits(path, files)
    splits = saved or by_split(path, files)
    if not splits:
        return files, False
    split = choose_split(splits, requested, default_split, spec)
    if not saved:
        _reject_configurations(path, files if split is None else splits[split])
    if split is None:
        return files, False
    say_unnamed(splits, split, spec)
    return splits[split], True


def _saved_files(files: list[Path]) -> list[Path]:
    """The Arrow files without those that Hugging Face datasets keeps beside them as its cache."""
    kept = [file for file in files if not _CACHED.fullmatch(file.name)]
    for folder in {file.parent for file in files}:
        try:
            names = [
                str(entry["filename"]) for entry in json.loads((folder / "state.json").read_bytes())["_data_files"]
            ]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for name in names:
            if folder / name not in files:
                raise DataError(f"{folder} lacks {name}; get the rest of the dataset.")
        kept = [file for file in kept if file.parent != folder or file.name in names]
    return kept


def _reject_configurations(path: Path, files: list[Path]) -> None:
    """Raises DataError: files of one name in several folders, as of a dataset on the Hub with several configurations."""
    first: dict[str, Path] = {}
    for file in files:
        other = first.setdefault(file.name, file)
        if other is not file and split_word(file.stem):
            folders = sorted({str(same.parent.relative_to(path)) for same in files if same.name == file.name})
            raise DataError(
                f"{path} has several data sets with the file {file.name} ({first_few(folders)}); add one to the path, for "
                f"example {path / folders[0]}."
            )


def _saved_splits(path: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The splits of a DatasetDict that save_to_disk wrote, in folders of their names."""
    try:
        names = list(json.loads((path / "dataset_dict.json").read_bytes())["splits"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    splits = {name: [file for file in files if file.parent == path / name] for name in map(str, names)}
    for name, of_split in splits.items():
        if not of_split:
            raise DataError(f"{path} lacks the files of its split {name}; get the rest of the dataset.")
    return splits
