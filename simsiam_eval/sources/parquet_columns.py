"""Which columns of a Parquet file hold images, labels and ids, and what is in the last two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.sources.labels import Labels

if TYPE_CHECKING:
    import pyarrow

_IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "bytes", "image_bytes", "content", "jpg", "jpeg", "png")
_LABEL_NAMES = ("label", "labels")


@dataclass(frozen=True)
class Footer:
    """What a file says of itself: its schema and the rows of each row group."""

    schema: pyarrow.Schema
    group_rows: list[int]


@dataclass(frozen=True)
class Columns:
    """The columns that are used, the types of image and label, and the names of the classes."""

    image: str
    label: str | None
    id: str | None
    types: tuple[str, ...]
    classes: tuple[str, ...] | None


def read_footer(file: Path) -> Footer:
    """Raises DataError: pyarrow is missing, or this is no Parquet file."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError('Parquet files need pyarrow: pip install "simsiam-eval[parquet]".') from error
    try:
        with parquet.ParquetFile(file) as table:
            found = table.metadata
            rows = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
            return Footer(table.schema_arrow, rows)
    except (OSError, ArrowException) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> DataError:
    return DataError(f"{file} is not a Parquet file, or it is damaged.")


def image_columns(schema: pyarrow.Schema) -> list[str]:
    """The columns that may hold image bytes: bytes (but a `path`, which some write so), or structs with `bytes`."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    return [
        field.name
        for field in schema
        if (is_bytes(field.type) and field.name != "path")
        or (types.is_struct(field.type) and any(part.name == "bytes" and is_bytes(part.type) for part in field.type))
    ]


def chosen_columns(schema: pyarrow.Schema, options: Mapping[str, str], file: Path) -> Columns:
    """The columns that the options name (image, label, id), else those with the common names.

    Raises:
        DataError: a column is not there, or of another type, or several could be meant.
    """
    image, features = _image_column(schema, options.get("image"), file), _features(schema)
    label = options.get("label") or _label_column(schema, features, file)
    label = None if label == "none" else label
    identity = options.get("id")
    for name in (label, identity and identity.partition(".")[0]):
        if name and name not in schema.names:
            raise DataError(f"{file} has no column {name!r}; it has: {', '.join(schema.names)}.")
    classes = features.get(label, {}).get("names") if label else None
    kinds = tuple(str(schema.field(name).type) for name in (image, label) if name)
    return Columns(image, label, identity, kinds, tuple(map(str, classes)) if classes else None)


def _image_column(schema: pyarrow.Schema, asked: str | None, file: Path) -> str:
    possible = image_columns(schema)
    if asked and asked not in schema.names:
        raise DataError(f"{file} has no column {asked!r}; it has: {', '.join(schema.names)}.")
    if asked and asked not in possible:
        raise DataError(f"The column {asked!r} of {file} holds {schema.field(asked).type}, not the bytes of images.")
    if not possible:
        there = ", ".join(schema.names)
        raise DataError(f"{file} has no column of image bytes ({there}); a table of paths is manifest:FILE.")
    found = asked or next((name for name in _IMAGE_NAMES if name in possible), None)
    if found is None and len(possible) > 1:
        raise DataError(f"{file} has several columns of bytes ({', '.join(possible)}): choose one with #image=NAME.")
    return found or possible[0]


def _label_column(schema: pyarrow.Schema, features: dict[str, dict[str, Any]], file: Path) -> str | None:
    usual = next((name for name in _LABEL_NAMES if name in schema.names), None)
    named = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    if usual is None and len(named) > 1:
        raise DataError(f"{file} has several columns of labels ({', '.join(named)}): choose one with #label=NAME.")
    return usual or (named[0] if named else None)


def _features(schema: pyarrow.Schema) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns, where there is one."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def labels_of(files: list[Path], columns: Columns, rows: int) -> tuple[NDArray[np.int64], list[str] | None]:
    """(N,) labels, -1 where there is none, and their names.

    Raises:
        DataError: neither integers nor texts, below -1, or beyond the classes.
    """
    from pyarrow import types

    if columns.label is None:
        return np.full(rows, -1), None
    texts, numbers = Labels(), []
    for file in files:
        column = _column(file, columns.label)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if types.is_integer(column.type) or types.is_boolean(column.type):
            numbers.append(column.cast("int64").fill_null(-1).to_numpy())
        elif types.is_string(column.type) or types.is_large_string(column.type):
            texts.extend("" if value is None else value.strip() for value in column.to_pylist())
        else:
            raise DataError(
                f"The column {columns.label!r} of {file} holds {column.type}: labels are integers or texts."
            )
    if not numbers:
        return texts.numbered()
    labels, classes = np.concatenate(numbers), columns.classes
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < -1:
        raise DataError(
            f"The labels of {files[0]} ({columns.label!r}) go down to {lowest}: they count from 0, -1 is none."
        )
    if classes and highest >= len(classes):
        raise DataError(
            f"The labels of {files[0]} ({columns.label!r}) go up to {highest}, and it names {len(classes)}."
        )
    return labels, list(classes) if classes else None


def texts_of(file: Path, name: str) -> Iterator[str]:
    """Values of a column, or of a field of one (`image.path`), as texts.

    Raises:
        DataError: there is no such field.
    """
    for value in _column(file, name).to_pylist():
        if "." in name and isinstance(value, dict):
            value = next(iter(value.values()))
        yield "" if value is None else str(value)


def _column(file: Path, name: str) -> pyarrow.ChunkedArray:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(file) as table:
            found = table.read(columns=[name])
    except (OSError, ArrowException) as error:
        raise _damaged(file) from error
    if not found.num_columns:
        raise DataError(f"{file} has no column {name!r}.")
    return found.column(0)
