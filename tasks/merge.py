"""`merge`: join the parts written by `extract --rows` into one feature file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import Settings, setting
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import FEATURE_ENDINGS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simsiam_eval.features.reader import FeatureReader

# Attributes that must be equal in all parts.
_COMMON = ("encoder", "preprocessing", "views", "precision", "dtype", "columns")


@dataclass(frozen=True, kw_only=True)
class MergeSettings(Settings):
    """Join the parts written by `extract --rows START:STOP` into one feature file, as if extracted in a single run."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "parts", "output": "out virtual"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("part-0.h5 part-1.h5 --out train.h5",)

    RESUMES = True

    parts: tuple[Path, ...] = setting(
        positional=True, help="Feature files of consecutive rows of one source, in any order."
    )
    out: Path = setting(output=True, endings=FEATURE_ENDINGS, help="Feature file to write (.h5).")
    virtual: bool = setting(
        False,
        help="Write a small HDF5 virtual file that refers to the parts by relative paths (keep them together).",
    )


def merge(settings: MergeSettings) -> Result:
    """Run `merge`; an interrupted merge is resumed.

    Raises:
        DataError: the parts cannot be merged, rows are missing or duplicated, or the output cannot be written.
    """
    from simsiam_eval.features.file import differences, read_attributes
    from simsiam_eval.features.reader import FeatureReader
    from simsiam_eval.runtime.progress import say

    started = time.perf_counter()
    with ExitStack() as stack:
        parts = _in_order([stack.enter_context(FeatureReader(part)) for part in settings.parts])
        attributes = _merged_attributes(parts)
        if settings.out.exists():
            existing = read_attributes(settings.out)
            expected = attributes | {key: parts[0].attributes[key] for key in ("dtype", "columns")}
            if differences(existing, expected):
                raise DataError(f"{settings.out} already exists with different content: choose another --out.")
            if bool(existing["parts"]) != settings.virtual:
                kind = "a virtual file" if existing["parts"] else "a file with its own data"
                raise DataError(f"{settings.out} already exists as {kind}: choose another --out.")
            if settings.virtual and [path.resolve() for path in existing["parts"]] != [
                part.path.resolve() for part in parts
            ]:
                raise DataError(f"{settings.out} already exists and refers to other parts: choose another --out.")
            say(f"{settings.out} already exists and is complete; nothing to do.")
            unreadable = existing["unreadable"]
        else:
            unreadable = (_write_virtual if settings.virtual else _write)(parts, attributes, settings.out)
        rows = sum(map(len, parts))
    first, last = parts[0].attributes["source"]["rows"][0], parts[-1].attributes["source"]["rows"][1]
    whole = "rows" not in attributes["source"]
    table = Table(
        f"Features in {settings.out}",
        ("rows", "source rows", "parts", "unreadable", "storage"),
        [[str(rows), "all" if whole else f"{first} to {last - 1}", str(len(parts)), str(unreadable),
          "virtual datasets" if settings.virtual else "data"]],
    )  # fmt: skip
    return Result(
        task="merge",
        settings=settings.to_dict(),
        metrics={"rows": rows, "unreadable": unreadable, "whole": whole, "first_row": first, "parts": len(parts)},
        provenance=provenance(started, **attributes),
        files={"features": str(settings.out)},
        table=table,
    )


def _in_order(parts: Sequence[FeatureReader]) -> list[FeatureReader]:
    """The parts, sorted by their first row.

    Raises:
        DataError: a file is not a part of a source, or the parts differ in their attributes, overlap or leave a gap.
    """
    from simsiam_eval.features.file import differences
    from simsiam_eval.runtime.progress import say

    first = parts[0]
    if len(parts) == 1 and "rows" not in first.attributes["source"]:  # `extract --rows 0:1000` of 1000 rows
        first.attributes["source"] |= {"rows": [0, len(first)], "rows_of": len(first)}
    for part in parts:
        if "rows" not in part.attributes["source"]:
            raise DataError(f"{part.path} is not a part written by `extract --rows` (no source.rows).")
        differing = differences(part.attributes, {key: first.attributes[key] for key in _COMMON})
        differing += differences({"source": _whole_source(part)}, {"source": _whole_source(first)})
        if differing:
            raise DataError(f"{first.path} and {part.path} cannot be merged: they differ in {differing[0]}.")
        for key in ("versions", "computation"):
            if part.attributes[key] != first.attributes[key]:
                say(f"{first.path} and {part.path} were written with different {key}: the last digits may differ.")
    parts = sorted(parts, key=lambda part: part.attributes["source"]["rows"])
    for part, next_part in pairwise(parts):
        end, start = part.attributes["source"]["rows"][1], next_part.attributes["source"]["rows"][0]
        if start != end:
            error = f"rows {end} to {start - 1} are missing" if start > end else f"row {start} is duplicated"
            raise DataError(f"Between {part.path} and {next_part.path} {error}: pass consecutive parts.")
    return parts


def _whole_source(part: FeatureReader) -> dict[str, Any]:
    """The attribute `source` without the rows of the part."""
    return {key: value for key, value in part.attributes["source"].items() if key != "rows"}


def _merged_attributes(parts: Sequence[FeatureReader]) -> dict[str, Any]:
    """Root attributes of the merged file; if the parts are all of a source, they equal those of a single extraction."""
    first = parts[0].attributes
    source = _whole_source(parts[0])
    rows = [first["source"]["rows"][0], parts[-1].attributes["source"]["rows"][1]]
    if rows == [0, source.get("rows_of")]:
        del source["rows_of"]
    else:
        source["rows"] = rows
    keys = ("encoder", "preprocessing", "views", "precision", "computation")
    assumptions = [part.attributes["assumptions"] for part in parts]
    return {key: first[key] for key in keys} | {"source": source, "assumptions": _united(assumptions)}


def _united(assumptions: Sequence[list[str] | None]) -> list[str] | None:
    """What was assumed for any part; None if that is unknown of all."""
    known = [sentences for sentences in assumptions if sentences is not None]
    return list(dict.fromkeys(sentence for sentences in known for sentence in sentences)) if known else None


class _MergedRows:
    """Ids and labels of all parts, read on demand, as FeatureWriter takes them."""

    def __init__(self, parts: Sequence[FeatureReader]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def ids_of(self, rows: range) -> list[str]:
        return [name for part, part_rows in self._part_rows(rows) for name in part.ids(part_rows)]

    @property
    def labels(self) -> _MergedRows:
        return self

    def __getitem__(self, rows: slice, /) -> NDArray[np.int64]:
        import numpy as np

        parts = self._part_rows(range(rows.start, rows.stop))
        return np.concatenate([part.labels(part_rows) for part, part_rows in parts])

    def _part_rows(self, rows: range) -> Iterator[tuple[FeatureReader, range]]:
        """The parts that contain `rows`, each with the range of its rows."""
        first = 0
        for part in self._parts:
            part_rows = range(max(rows.start - first, 0), min(rows.stop - first, len(part)))
            if part_rows:
                yield part, part_rows
            first += len(part)


def _write(parts: Sequence[FeatureReader], attributes: dict[str, Any], out: Path) -> int:
    """Copy the parts block by block; returns the number of unreadable images."""
    from simsiam_eval.features.writer import FeatureWriter
    from simsiam_eval.runtime.progress import progress

    rows = _MergedRows(parts)
    with FeatureWriter(out, rows, parts[0].columns, parts[0].attributes["dtype"], attributes) as writer:
        first = 0
        with progress(f"merge {out.name}", len(rows)) as advance:
            for part in parts:
                for start in range(0, len(part), part.block_rows):
                    block = range(start, min(start + part.block_rows, len(part)))
                    if not writer.is_written(range(first + block.start, first + block.stop)):
                        reasons = {first + row: reason for row, reason in part.reasons(block).items()}
                        writer.write(first + start, part.block(block).columns, reasons)
                    advance(len(block))
                first += len(part)
        return writer.finish()


def _write_virtual(parts: Sequence[FeatureReader], attributes: dict[str, Any], out: Path) -> int:
    """Write virtual datasets that point at the parts, and copy `errors`; returns the number of unreadable images."""
    import h5py

    from simsiam_eval.features.layout import add_errors, add_header
    from simsiam_eval.files.atomic import atomic_write

    errors = []
    with atomic_write(out) as target, h5py.File(target, "w") as file:
        add_header(file, attributes)
        for name in ("labels", "ids", "valid", *parts[0].columns):
            _add_virtual_dataset(file, name, parts, out)
        first = 0
        for part in parts:
            errors += [(first + row, *reason) for row, reason in part.reasons(range(len(part))).items()]
            first += len(part)
        add_errors(file, errors)
        file.attrs["complete"] = True
    return len(errors)


def _add_virtual_dataset(file: Any, name: str, parts: Sequence[FeatureReader], out: Path) -> None:
    import h5py

    from simsiam_eval.features.file import in_hdf5

    datasets = [part.file[name] for part in parts]
    # The width of ids differs between parts.
    dtype = max((dataset.dtype for dataset in datasets), key=lambda dtype: dtype.itemsize)
    layout = h5py.VirtualLayout((sum(map(len, datasets)), *datasets[0].shape[1:]), dtype)
    first, folder = 0, out.resolve().parent
    for part, dataset in zip(parts, datasets, strict=True):
        path = in_hdf5(os.path.relpath(part.path.resolve(), folder))
        layout[first : first + len(dataset)] = h5py.VirtualSource(path, name, dataset.shape, dataset.dtype)
        first += len(dataset)
    file.create_virtual_dataset(name, layout)
