"""Features of another program with their ids and labels, found in the files that were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import ForeignArray, joined_arrays, texts_of
from simsiam_eval.features.foreign.choice import (
    ID_NAMES,
    LABEL_NAMES,
    NONE,
    choose_column,
    choose_features,
    readable,
)
from simsiam_eval.features.foreign.labels import (
    RowLabels,
    folder_labels,
    labels_by_id,
    read_class_names,
    row_labels,
)
from simsiam_eval.features.foreign.opening import open_arrays
from simsiam_eval.features.layout import storable
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.vocabulary import NO_LABEL
from simsiam_eval.wording import counted


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Where the rows, their labels and their ids come from.

    Attributes:
        features: files or folders, in the order of the rows.
        labels, ids: files of their own; None: from the files of the features.
        class_names: file of names.
        features_key, labels_key, ids_key: names of arrays or columns; `none` for no labels or ids.
        from_folders: whether the folder in an id is its label.
        no_label: label texts that mean that there is no label.
    """

    features: tuple[Path, ...]
    labels: Path | None = None
    ids: Path | None = None
    class_names: Path | None = None
    features_key: str | None = None
    labels_key: str | None = None
    ids_key: str | None = None
    from_folders: bool = False
    no_label: tuple[str, ...] = NO_LABEL


@dataclass(frozen=True)
class ForeignFeatures:
    """Features of another program, ready to be written; as FeatureWriter takes ids and labels.

    Attributes:
        matrix: (N, D), perhaps with further axes of length 1.
        ids: N strings.
        labels: (N,) int64, -1 for none.
        class_names: None if the classes have only numbers.
        origins: what was taken for `features`, `labels` and `ids`, a phrase each.
        notes: sentences about what was decided.
        files: all files that were read.
        own_ids: whether the ids are the files' own, and not row numbers.
    """

    matrix: ForeignArray
    ids: PackedTexts
    labels: NDArray[np.int64]
    class_names: list[str] | None
    origins: dict[str, str]
    notes: list[str]
    files: list[Path]
    own_ids: bool

    def __len__(self) -> int:
        return len(self.ids)

    def ids_of(self, rows: range) -> list[str]:
        return self.ids[rows.start : rows.stop]

    @property
    def width(self) -> int:
        return int(np.prod(self.matrix.shape[1:]))

    def duplicate_ids(self) -> int:
        """Number of rows whose id an earlier row has; by 64-bit hashes, so that few bytes per row are needed."""
        hashes = np.fromiter(map(hash, self.ids), np.int64, len(self.ids))
        return len(hashes) - len(np.unique(hashes))

    @property
    def dtype(self) -> str:
        """Of the feature file."""
        return "float16" if self.matrix.dtype.newbyteorder("=") == np.float16 else "float32"


def open_foreign(options: ImportOptions) -> ForeignFeatures:
    """Open the files and find out what in them is what; features are not read yet.

    Raises:
        DataError: a file cannot be read, something is ambiguous, or shapes and lengths do not fit together.
    """
    opened, files = [], list[Path]()
    for path in options.features:
        arrays, read = open_arrays(path)
        opened.append((path, arrays))
        files += read
    where = str(options.features[0])
    chosen = [readable(choose_features(arrays, options.features_key, str(path)), str(path)) for path, arrays in opened]
    matrix = joined_arrays(chosen, [str(path) for path, _ in opened]) if len(chosen) > 1 else chosen[0]
    notes = _check_matrix(matrix, where)
    rest = [(str(path), [array for array in arrays if array is not taken])
            for (path, arrays), taken in zip(opened, chosen, strict=True)]  # fmt: skip
    rows, origins = matrix.shape[0], {"features": _origin(matrix, where, len(opened))}
    ids, origins["ids"] = _ids(options, rest, rows)
    files += [path for path in (options.ids, options.labels, options.class_names) if path is not None]
    names = None if options.class_names is None else read_class_names(options.class_names)
    found, origins["labels"], more = _labels(options, rest, ids, names, matrix)
    if found is None and names is not None:
        raise DataError(f"{options.class_names} names classes, but no labels were found; give --labels.")
    own_ids = ids is not None
    return ForeignFeatures(
        matrix,
        ids if ids is not None else PackedTexts(map(str, range(rows))),
        found.labels if found is not None else np.full(rows, -1, dtype=np.int64),
        found.class_names if found is not None else None,
        origins,
        [*notes, *more],
        files,
        own_ids,
    )


def _origin(array: ForeignArray, where: str, files: int) -> str:
    inputs = where if files == 1 else f"{where} and {counted(files - 1, 'more input')}"
    return f"{array.described()} in {inputs}"


def _check_matrix(matrix: ForeignArray, where: str) -> list[str]:
    """Notes about how the array becomes rows of features.

    Raises:
        DataError: it cannot.
    """
    shape, described = matrix.shape, f"{where} has the shape {matrix.shape}"
    if matrix.dtype.kind not in "fiu":
        raise DataError(f"{where} contains {matrix.described()}; expected numbers (N, D).")
    if len(shape) < 2:
        raise DataError(
            f"{described} with {counted(len(shape), 'dimension')}; expected (N, D), a row of features per image."
        )
    if not shape[0] or not all(shape[1:]):
        raise DataError(f"{described}, which contains no features.")
    wide = [length for length in shape[1:] if length > 1]
    if len(wide) > 1:
        raise DataError(
            f"{described}; expected (N, D): pool or flatten feature maps and token features before you save them."
        )
    notes = []
    if len(shape) > 2:
        notes.append(f"Axes of length 1 were removed: {shape} became {(shape[0], wide[0] if wide else 1)}.")
    if matrix.dtype.newbyteorder("=") not in (np.float16, np.float32):
        notes.append(f"{matrix.dtype} was converted to float32.")
    return notes


def _ids(
    options: ImportOptions, inputs: Sequence[tuple[str, list[ForeignArray]]], rows: int
) -> tuple[PackedTexts | None, str]:
    """The ids, None without any, and where they are from."""
    if options.ids is not None:
        arrays, _ = open_arrays(options.ids, lines=True)
        inputs = [(str(options.ids), arrays)]
    columns = _columns(inputs, ID_NAMES, options.ids_key, "--ids-key", only=options.ids is not None)
    if columns is None:
        return None, "row numbers (no ids were found; give --ids)" if options.ids_key != NONE else "row numbers"
    ids = PackedTexts(_id(text, row, inputs[0][0]) for row, text in enumerate(texts_of(columns)))
    if len(ids) != rows:
        raise DataError(
            f"{inputs[0][0]} has {counted(len(ids), 'id')} ({columns.name}), but there are {rows} rows of features."
        )
    return ids, f"{columns.described()} in {inputs[0][0]}"


def _id(text: str | None, row: int, where: str) -> str:
    if text is None:
        raise DataError(f"{where} has no id in row {row}.")
    return storable(text)


def _columns(
    inputs: Sequence[tuple[str, list[ForeignArray]]], names: Sequence[str], key: str | None, option: str, only: bool
) -> ForeignArray | None:
    """The column of labels or ids of all inputs, joined; None if no input has one.

    Args:
        only: whether a single array of a file is taken whatever its name.

    Raises:
        DataError: some inputs have one and others do not.
    """
    found = []
    for where, arrays in inputs:
        if only and len(arrays) == 1 and key is None:
            arrays = [ForeignArray(names[0], arrays[0].shape, arrays[0].dtype, arrays[0].blocks, arrays[0].problem)]
        column = choose_column(arrays, names, key, option, where)
        if column is None and only:
            raise DataError(f"{where} has no column of {names[0]}; choose one with {option}.")
        found.append(column)
    if all(column is None for column in found):
        return None
    for (where, _), column in zip(inputs, found, strict=True):
        if column is None:
            raise DataError(f"{where} has no {names[0]}, but other inputs have; leave them out with {option} {NONE}.")
    columns = [column for column in found if column is not None]
    return joined_arrays(columns, [where for where, _ in inputs]) if len(columns) > 1 else columns[0]


def _labels(
    options: ImportOptions,
    inputs: Sequence[tuple[str, list[ForeignArray]]],
    ids: PackedTexts | None,
    names: list[str] | None,
    matrix: ForeignArray,
) -> tuple[RowLabels | None, str, list[str]]:
    """The labels, None without any; where they are from; and notes."""
    rows = matrix.shape[0]
    if options.from_folders:
        if ids is None:
            raise DataError("--folder-labels needs ids such as cat/1.jpg, but none were found; give --ids.")
        return folder_labels(ids, names), "the folder in each id", []
    if options.labels is not None:
        arrays, _ = open_arrays(options.labels, lines=True)
        where = str(options.labels)
        inputs = [(where, arrays)]
        column = _columns(inputs, LABEL_NAMES, options.labels_key, "--labels-key", only=True)
        assert column is not None
        others = [array for array in arrays if array.name != column.name] if len(arrays) > 1 else []
        label_ids = choose_column(others, ID_NAMES, None, "--labels-key", where)
        if label_ids is not None and ids is None and options.ids_key != NONE:
            raise DataError(
                f"{where} has a column of ids ({label_ids.name}), but the features have no ids; give theirs with --ids, or "
                f"--ids {where} if its rows are in the order of the features."
            )
        if label_ids is not None and ids is not None:
            table = row_labels(column, names, where, options.no_label)
            found, missing = labels_by_id(ids, texts_of(label_ids), table, where)
            note = f"{where} has no label for {counted(missing, 'row')}."
            return (
                found,
                f"{column.described()} in {where}, matched by {label_ids.name}",
                [*_sentences(table.notes), *([note] if missing else [])],
            )
    else:
        column = _columns(inputs, LABEL_NAMES, options.labels_key, "--labels-key", only=False)
        where = inputs[0][0]
    if column is None:
        return None, "none" if options.labels_key == NONE else "none (no labels were found; give --labels)", []
    if column.shape[0] != rows:
        hint = " (are the features transposed?)" if column.shape[0] in matrix.shape[1:] else ""
        raise DataError(
            f"{where} has {counted(column.shape[0], 'label')}, but there are {rows} rows of features{hint}."
        )
    found = row_labels(column, names, where, options.no_label)
    if options.labels is None and options.labels_key is None and _lightly_placeholder(column, inputs, found):
        note = (
            f"The column labels of {where} is 0 in every row, as lightly writes it for unlabeled images, so it was left "
            "out; give --labels-key labels to keep it."
        )
        return None, "none", [note]
    return found, f"{column.described()} in {where}", _sentences(found.notes)


def _sentences(notes: Sequence[str]) -> list[str]:
    return [f"{note[0].upper()}{note[1:]}." for note in notes]


def _lightly_placeholder(
    column: ForeignArray, inputs: Sequence[tuple[str, list[ForeignArray]]], found: RowLabels
) -> bool:
    """Whether these are the labels of a lightly_csv: 0 in every row, next to `filenames`."""
    table = column.name == "labels" and any(array.name == "filenames" for array in inputs[0][1])
    return table and inputs[0][0].lower().endswith(".csv") and not found.labels.any() and len(found.labels) > 1
