"""`export`: write a feature file as Parquet, as a folder of NumPy files, or as a dataset for FiftyOne."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.errors import DataError, UsageError
from tasks.atlas.settings import AnalysisSettings

if TYPE_CHECKING:
    from simsiam_eval.features.reader import FeatureBlock, FeatureReader


@dataclass(frozen=True, kw_only=True)
class ExportSettings(AnalysisSettings):
    """Export a feature file to Parquet or NumPy, in constant memory, or to FiftyOne with predictions and suspects.

    The options of the method and the index are of fiftyone.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "file", "output": "to out"}
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "train.h5 --to parquet --out train.parquet",
        "train.h5 --to fiftyone --out train-fiftyone",
    )

    RESUMES = True

    file: Path = setting(positional=True, help="Feature file (.h5).")
    to: str = setting(
        choices=("parquet", "npy", "fiftyone"),
        help="Format: parquet (one table), npy (a folder of NumPy arrays) or fiftyone (a folder that FiftyOne imports as "
        "FiftyOneDataset).",
    )
    out: Path = setting(output=True, help="File (parquet) or folder (npy, fiftyone) to write; must not exist.")

    def check(self) -> None:
        super().check()
        if self.to != "fiftyone":
            self.reject_given([field.name for field in fields(AnalysisSettings)], "requires --to fiftyone")


def export(settings: ExportSettings) -> Result:
    """Run `export`.

    Raises:
        DataError: the feature file cannot be used, or the output already exists or cannot be written.
        UsageError: pyarrow is not installed.
    """
    from simsiam_eval.features.reader import FeatureReader

    started = time.perf_counter()
    with FeatureReader(settings.file) as reader:
        if settings.out.exists():
            raise DataError(f"{settings.out} already exists: delete it or choose another --out.")
        notes: list[str] = []
        more: dict[str, Any] = {}
        if settings.to == "fiftyone":
            more, notes = _write_fiftyone(settings)
        else:
            (_write_parquet if settings.to == "parquet" else _write_npy)(reader, settings.out)
        rows, unreadable, columns = len(reader), reader.attributes["unreadable"], list(reader.columns)
        source = {
            key: reader.attributes[key] for key in ("encoder", "assumptions", "preprocessing", "source", "precision")
        }
    out = settings.out
    size = sum(file.stat().st_size for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file())
    table = Table(
        f"Exported to {out}",
        ("rows", "unreadable", "columns", "MB"),
        [[str(rows), str(unreadable), ", ".join(columns), f"{size / 1e6:.1f}"]],
        notes,
    )
    return Result(
        task="export",
        settings=settings.to_dict(),
        metrics={"rows": rows, "unreadable": unreadable, "columns": columns, "bytes": size} | more,
        provenance=provenance(started, file=str(settings.file), **source),
        files={settings.to: str(out)},
        table=table,
    )


def _write_fiftyone(settings: ExportSettings) -> tuple[dict[str, Any], list[str]]:
    """Write the folder; what the record says of it, and notes for people."""
    from dataclasses import asdict

    from simsiam_eval.files.atomic import make_folder
    from simsiam_eval.runtime.device import resolve_device
    from simsiam_eval.wording import counted
    from tasks.atlas.analysis import analyzed
    from tasks.export.fiftyone import write_fiftyone

    parent = settings.out.absolute().parent
    make_folder(parent)
    with analyzed(settings.file, settings, parent, resolve_device(settings.device)) as analysis:
        written = write_fiftyone(settings.out, analysis, settings.images)
        more = {**asdict(written), "analysis": analysis.counts(), "index": analysis.index}
    notes = [
        "To import it: fiftyone.Dataset.from_dir("
        f"{str(settings.out)!r}, dataset_type=fiftyone.types.FiftyOneDataset, name={settings.out.name!r})"
    ]
    if written.missing:
        notes.append(f"{counted(written.missing, 'sample')} without an image file: the image is gone or unreadable.")
    return more, notes


def _root_attributes(reader: FeatureReader) -> dict[str, Any]:
    """The root attributes that exported files keep, for JSON."""
    keys = (
        "format",
        "format_version",
        "precision",
        "encoder",
        "assumptions",
        "preprocessing",
        "source",
        "views",
        "versions",
    )
    return {key: reader.attributes[key] for key in keys}


def _write_parquet(reader: FeatureReader, out: Path) -> None:
    """Columns: id, label, class_name (if known), valid, error (the reason if not valid), features, layers, views."""
    from simsiam_eval.features.class_names import class_name
    from simsiam_eval.files.atomic import atomic_write
    from simsiam_eval.runtime.progress import progress

    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("--to parquet requires pyarrow: pip install pyarrow.") from error

    def column_type(shape: tuple[int, ...]) -> Any:
        arrow_type = arrow.float16() if reader.attributes["dtype"] == "float16" else arrow.float32()
        for length in reversed(shape):
            arrow_type = arrow.list_(arrow_type, length)
        return arrow_type

    names = reader.attributes["source"].get("class_names")
    fields = [("id", arrow.string()), ("label", arrow.int64())]
    fields += [("class_name", arrow.string())] if names is not None else []
    fields += [("valid", arrow.bool_()), ("error", arrow.string())]
    fields += [(_column_name(name), column_type(shape)) for name, shape in reader.columns.items()]
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in _root_attributes(reader).items()}
    schema = arrow.schema(fields, metadata=metadata)

    def to_table(block: FeatureBlock) -> Any:
        reasons = reader.reasons(block.rows)
        values: dict[str, Any] = {"id": block.ids, "label": block.labels, "valid": block.valid}
        values["error"] = [reasons[row][1] if row in reasons else None for row in block.rows]
        if names is not None:
            values["class_name"] = [class_name(label, names) or None for label in block.labels.tolist()]
        arrays = {name: arrow.array(column, schema.field(name).type) for name, column in values.items()}
        arrays |= {_column_name(name): _fixed_size_lists(arrow, column) for name, column in block.columns.items()}
        return arrow.table([arrays[field.name] for field in schema], schema=schema)

    with (
        atomic_write(out) as target,
        parquet.ParquetWriter(target, schema, use_dictionary=["class_name", "error"]) as writer,
        progress(f"export {out.name}", len(reader)) as advance,
    ):
        for block in reader.blocks():
            writer.write_table(to_table(block))
            advance(len(block.rows))


def _column_name(dataset: str) -> str:
    """layer3 for layers/layer3; other datasets keep their name."""
    return dataset.removeprefix("layers/")


def _fixed_size_lists(arrow: Any, values: Any) -> Any:
    """(B,...) as an Arrow array of B fixed-size lists."""
    array = arrow.array(values.reshape(-1))
    for length in reversed(values.shape[1:]):
        array = arrow.FixedSizeListArray.from_arrays(array, length)
    return array


def _write_npy(reader: FeatureReader, out: Path) -> None:
    """features.npy, labels.npy, ids.npy, valid.npy, errors.json, attributes.json; layers/NAME.npy and views.npy."""
    import numpy as np

    from simsiam_eval.files.atomic import atomic_folder
    from simsiam_eval.runtime.progress import progress

    rows, dtype = len(reader), reader.attributes["dtype"]
    starts = range(0, rows, reader.block_rows)
    longest = max(
        (len(name) for start in starts for name in reader.ids(range(start, min(start + starts.step, rows)))), default=1
    )
    arrays = {name: ((rows, *shape), np.dtype(dtype)) for name, shape in reader.columns.items()}
    arrays |= {"labels": ((rows,), np.dtype("int64")), "valid": ((rows,), np.dtype("bool"))}
    arrays["ids"] = ((rows,), np.dtype(f"U{max(1, longest)}"))
    with atomic_folder(out) as folder, progress(f"export {out.name}", rows) as advance, ExitStack() as stack:
        files = {}
        for name, (shape, array_dtype) in arrays.items():
            (folder / name).parent.mkdir(exist_ok=True)
            files[name] = stack.enter_context(open(folder / f"{name}.npy", "wb"))
            header = {"descr": np.lib.format.dtype_to_descr(array_dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        for block in reader.blocks():
            values = {**block.columns, "labels": block.labels, "ids": block.ids, "valid": block.valid}
            # Not memory-mapped: on a full disk that would kill the process instead of raising an error.
            for name, (_, array_dtype) in arrays.items():
                files[name].write(np.asarray(values[name], dtype=array_dtype).tobytes())
            advance(len(block.rows))
        errors = [[row, *reason] for row, reason in reader.reasons(range(rows)).items()]
        (folder / "errors.json").write_text(json.dumps(errors, ensure_ascii=False), encoding="utf-8")
        (folder / "attributes.json").write_text(
            json.dumps(_root_attributes(reader), ensure_ascii=False, indent=2), encoding="utf-8"
        )
