"""The Parquet file: one row per image, written block by block; docs/atlas.md lists its columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.runtime.progress import progress
from simsiam_eval.wording import printable
from tasks.atlas.analysis import Analysis
from tasks.atlas.thumbnails import Thumbnails

VERSION = 1
_METADATA = b"simsiam-eval atlas"
_BLOCK = 8192  # images of a row group


def write_table(path: Path, analysis: Analysis, thumbnails: Thumbnails, described: dict[str, Any]) -> dict[str, Any]:
    """Write the file.

    Args:
        described: what is kept in its metadata, as JSON.

    Returns:
        what was kept, with the numbers of thumbnails.

    Raises:
        DataError: it cannot be written.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    schema = _schema(arrow, analysis)
    texts = ["label", "predicted", "result", "suspect", "suggested"]
    with (
        atomic_write(path) as target,
        parquet.ParquetWriter(target, schema, compression="zstd", use_dictionary=texts) as writer,
        progress(f"write {path.name}", len(analysis)) as advance,
    ):
        for start in range(0, len(analysis), _BLOCK):
            rows = range(start, min(start + _BLOCK, len(analysis)))
            writer.write_table(_block(arrow, schema, analysis, thumbnails, rows))
            advance(len(rows))
        described = described | {"thumbnails": thumbnails.made, "thumbnails_missing": thumbnails.missing}
        writer.add_key_value_metadata({_METADATA: json.dumps({"version": VERSION} | described).encode()})
    return described


def read_description(path: Path) -> dict[str, Any] | None:
    """What `write_table` kept in the metadata of a file; None if there is no such file."""
    from pyarrow import ArrowException, parquet

    try:
        metadata = parquet.ParquetFile(path).metadata.metadata or {}
        described: dict[str, Any] = json.loads(metadata[_METADATA])
    except (OSError, ArrowException, KeyError, ValueError):
        return None
    return described if described.get("version") == VERSION else None


def _schema(arrow: Any, analysis: Analysis) -> Any:
    text, number, small = arrow.string(), arrow.float32(), arrow.int32()
    neighbors = arrow.struct([("ids", arrow.list_(arrow.int64())), ("distances", arrow.list_(number))])
    # In this order embedding-atlas shows columns and charts.
    fields = [
        ("id", text), ("image", arrow.binary()), ("label", text), ("predicted", text), ("result", text),
        ("suspect", text), ("confidence", number), ("margin", number), ("suggested", text),
        ("outlier_distance", number), ("class_outlier_ratio", number), ("nearest_similarity", number),
        ("duplicate_group", small), ("conflict", text),
    ]  # fmt: skip
    if analysis.leaks is not None:
        fields += [("nearest_training", text), ("training_similarity", number)]
    return arrow.schema([*fields, ("x", number), ("y", number), ("neighbors", neighbors), ("row", arrow.int64())])


def _block(arrow: Any, schema: Any, analysis: Analysis, thumbnails: Thumbnails, rows: range) -> Any:
    columns = block_columns(analysis, rows)
    arrays = {name: arrow.array(values, schema.field(name).type, from_pandas=True) for name, values in columns.items()}
    similarities, near = analysis.neighbors.read(rows.start, rows.stop)
    found = near >= 0
    offsets = np.concatenate([[0], found.sum(axis=1).cumsum()]).astype(np.int32)
    distances = np.clip(1 - similarities[found], 0, 2)
    lists = [arrow.ListArray.from_arrays(offsets, arrow.array(values)) for values in (near[found], distances)]
    arrays["neighbors"] = arrow.StructArray.from_arrays(lists, fields=list(schema.field("neighbors").type))
    arrays["image"] = arrow.array([thumbnails.of(row) for row in rows], arrow.binary())
    return arrow.table([arrays[field.name] for field in schema], schema=schema)


def block_columns(analysis: Analysis, rows: range) -> dict[str, NDArray[Any] | list[Any]]:
    """The columns of some images that are numbers or texts; NaN and None stand for no value."""
    which = slice(rows.start, rows.stop)
    features, near, votes, leaks = analysis.features, analysis.near, analysis.votes, analysis.leaks
    nothing = [None] * len(rows)
    labels = features.labels[which]
    columns: dict[str, NDArray[Any] | list[Any]] = {
        "row": features.rows[which],
        "id": [printable(name) for name in features.ids[which].tolist()],
        "x": analysis.map.points[which, 0],
        "y": analysis.map.points[which, 1],
        "label": _names(analysis, labels),
        "predicted": nothing,
        "confidence": np.full(len(rows), np.nan, np.float32),
        "result": nothing,
        "suspect": [analysis.suspect(row) for row in rows],
        "margin": np.full(len(rows), np.nan, np.float32),
        "suggested": nothing,
        "outlier_distance": near.outliers.distance[which],
        "class_outlier_ratio": near.outliers.class_ratio[which],
        "nearest_similarity": near.similarity[which],
        "duplicate_group": [group if group >= 0 else None for group in analysis.group[which].tolist()],
        "conflict": [_id(features.ids, row) for row in near.conflict[which].tolist()],
    }
    if votes is not None:
        voted = votes.labels[which]
        columns["predicted"] = _names(analysis, voted)
        columns["confidence"] = np.where(voted >= 0, votes.confidence[which], np.float32(np.nan))
        columns["result"] = [
            None if label < 0 or vote < 0 else "correct" if label == vote else "wrong"
            for label, vote in zip(labels.tolist(), voted.tolist(), strict=True)
        ]
    if analysis.labels is not None:
        columns["margin"] = analysis.labels.margin[which]
        columns["suggested"] = _names(analysis, analysis.labels.suggested[which])
    if leaks is not None:
        columns["nearest_training"] = [_id(leaks.train.ids, row) for row in leaks.rows[which].tolist()]
        columns["training_similarity"] = np.where(leaks.rows[which] >= 0, leaks.similarity[which], np.float32(np.nan))
    return columns


def _names(analysis: Analysis, labels: NDArray[np.int64]) -> list[str | None]:
    names = {label: analysis.name(label) for label in np.unique(labels).tolist()}
    shown = {label: name and printable(name) for label, name in names.items()}
    return [shown[label] for label in labels.tolist()]


def _id(ids: NDArray[np.str_], row: int) -> str | None:
    return printable(str(ids[row])) if row >= 0 else None
