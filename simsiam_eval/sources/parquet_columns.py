"""Columns of a Parquet or Arrow file with images, labels and ids, and the values of the last two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.sources.columnar_file import ColumnarFile
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.split_column import are_splits, split_column, split_in_column
from simsiam_eval.sources.splits import choose_split

if TYPE_CHECKING:
    import pyarrow

_IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "bytes", "image_bytes", "content", "jpg", "jpeg", "png")
_LABEL_NAMES = ("label", "labels")


@dataclass(frozen=True)
class Columns:
    """The columns to read, the types of image and label, and the class names."""

    image: str
    label: str | None
    id: str | None
    split: str | None  # may be something else, as its values show
    types: tuple[str, ...]
    classes: tuple[str, ...] | None


def image_columns(schema: pyarrow.Schema) -> list[str]:
    """The columns that can contain images: bytes (except `path`, which some files store so), or structs with `bytes`."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    return [
        field.name
        for field in schema
        if (is_bytes(field.type) and field.name != "path")
        or (types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type))
    ]


def choose_columns(schema: pyarrow.Schema, options: Mapping[str, str], file: Path) -> Columns:
    """The columns that the options name (image, label, id), else those with common names.

    Raises:
        DataError: a column is missing, of another type, or ambiguous.
    """
    image, features = _image_column(schema, options.get("image"), file), _features(schema)
    label = options.get("label") or _label_column(schema, features, file)
    label = None if label == "none" else label
    id_column = options.get("id")
    for name in (label, id_column and id_column.partition(".")[0]):
        if name and name not in schema.names:
            raise _no_column(file, name, schema)
    classes = features.get(label, {}).get("names") if label else None
    types = tuple(str(schema.field(name).type) for name in (image, label) if name)
    split = split_column(schema.names, (image, label, id_column))
    return Columns(image, label, id_column, split, types, tuple(map(str, classes)) if classes else None)


def _no_column(file: Path, name: str, schema: pyarrow.Schema) -> DataError:
    return DataError(f"{file} has no column {name!r}; expected one of {', '.join(schema.names)}.")


def _image_column(schema: pyarrow.Schema, name: str | None, file: Path) -> str:
    possible = image_columns(schema)
    if name and name not in schema.names:
        raise _no_column(file, name, schema)
    if name and name not in possible:
        raise DataError(f"The column {name!r} of {file} contains {schema.field(name).type}; expected image bytes.")
    if not possible:
        columns = ", ".join(schema.names)
        raise DataError(f"{file} has no column of image bytes ({columns}); for a table of paths use manifest:{file}.")
    chosen = name or next((common for common in _IMAGE_NAMES if common in possible), None)
    if chosen is None and len(possible) > 1:
        raise DataError(f"{file} has several columns of bytes ({', '.join(possible)}); choose one with #image=NAME.")
    return chosen or possible[0]


def _label_column(schema: pyarrow.Schema, features: dict[str, dict[str, Any]], file: Path) -> str | None:
    common = next((name for name in _LABEL_NAMES if name in schema.names), None)
    class_labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    if common is None and len(class_labels) > 1:
        raise DataError(
            f"{file} has several columns of labels ({', '.join(class_labels)}); choose one with #label=NAME."
        )
    return common or (class_labels[0] if class_labels else None)


def _features(schema: pyarrow.Schema) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns; empty without one."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def rows_of_split(
    files: list[Path], columns: Columns, requested: str | None, default: str | None, spec: str
) -> NDArray[np.int64] | None:
    """The (M,) rows of the chosen split, where a column names splits; None: all rows.

    Args:
        requested, default: as those of `choose_split`.

    Raises:
        DataError: as `choose_split`.
    """
    values: list[str] = []
    for file in files if columns.split else ():
        column = ColumnarFile(file).column(str(columns.split))
        values += ["" if value is None else str(value).strip() for value in column.to_pylist()]
    if columns.split is None or not are_splits(columns.split, set(values)):
        choose_split((), requested, None, spec)
        return None
    split = split_in_column(columns.split, set(values), requested, default, spec)
    return None if split is None else np.flatnonzero(np.array(values) == split)


def labels_of(
    files: list[Path], columns: Columns, rows: int, no_label: Sequence[str], chosen: NDArray[np.int64] | None = None
) -> Labels:
    """The labels of all rows, or of the (M,) chosen ones in ascending order.

    Raises:
        DataError: neither numbers nor strings.
    """
    from pyarrow import types

    labels = Labels(no_label)
    if columns.label is None:
        labels.extend([""] * (rows if chosen is None else len(chosen)))
        return labels
    start = 0
    for file in files:
        column = ColumnarFile(file).column(columns.label)
        if chosen is not None:
            inside = chosen[(chosen >= start) & (chosen < start + len(column))] - start
            start += len(column)
            column = column.take(inside)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or types.is_boolean(kind):
            labels.extend(None if value is None else str(value) for value in column.to_pylist())
        elif not (types.is_integer(kind) or types.is_floating(kind)):
            raise DataError(
                f"The column {columns.label!r} of {file} contains {kind}; expected whole numbers or strings as labels."
            )
        else:
            labels.extend_numbers(column.fill_null(-1).to_numpy(), column.is_null().to_numpy())
    return labels


def texts_of(file: Path, name: str) -> Iterator[str]:
    """The values of a column, or of a field of a struct (`image.path`), as text; "" for null.

    Raises:
        DataError: there is no such field.
    """
    for value in ColumnarFile(file).column(name).to_pylist():
        if "." in name and isinstance(value, dict):
            value = next(iter(value.values()))
        yield "" if value is None else str(value)
