"""`merge`: the parts that `extract --rows` wrote -> one feature file."""

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

# Attributes that the parts of an extraction have in common.
_COMMON = ("encoder", "preprocessing", "views", "precision", "dtype", "columns")


@dataclass(frozen=True, kw_only=True)
class MergeSettings(Settings):
    """Join the parts written by `extract --rows START:STOP` into one feature file, as if extracted in a single run."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "parts", "output": "out virtual"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("part-0.h5 part-1.h5 --out train.h5",)

    parts: tuple[Path, ...] = setting(
        positional=True, help="Feature files of consecutive rows of one source, in any order."
    )
    out: Path = setting(endings=FEATURE_ENDINGS, help="Feature file to write (.h5).")
    virtual: bool = setting(
        False,
        help="Write a small HDF5 virtual file that refers to the parts by relative paths (keep them together).",
    )


def merge(settings: MergeSettings) -> Result:
    """Run `merge`, or resume an interrupted one.

    Raises:
        DataError: the parts cannot be merged, rows are missing or duplicated, or the output cannot be written.
    """
    from simsiam_eval.features.file import differences, read_attributes
    from simsiam_eval.features.reader import FeatureReader
    from simsiam_eval.runtime.progress import say

    started = time.perf_counter()
    with ExitStack() as stack:
        parts = _in_order([stack.enter_context(FeatureReader(part)) for part in settings.parts])
        attributes = _attributes_of_all(parts)
        if settings.out.exists():
            existing = read_attributes(settings.out)
            wanted = attributes | {key: parts[0].attributes[key] for key in ("dtype", "columns")}
            if differences(existing, wanted):
                raise DataError(f"{settings.out} already exists and has other content: choose another --out.")
            if bool(existing["parts"]) != settings.virtual:
                kind = "a virtual file" if existing["parts"] else "a file with its own data"
                raise DataError(f"{settings.out} already exists as {kind}: choose another --out.")
            if settings.virtual and [path.resolve() for path in existing["parts"]] != [
                part.path.resolve() for part in parts
            ]:
                raise DataError(f"{settings.out} already exists and points at other parts: choose another --out.")
            say(f"{settings.out} already exists and is complete; nothing to do.")
            unreadable = existing["unreadable"]
        else:
            unreadable = (_write_virtual if settings.virtual else _write)(parts, attributes, settings.out)
        rows = sum(map(len, parts))
    first, last = parts[0].attributes["source"]["rows"][0], parts[-1].attributes["source"]["rows"][1]
    whole = "rows" not in attributes["source"]
    table = Table(
        f"Features in {settings.out}",
        ("rows", "of the source", "parts", "unreadable", "written as"),
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
    """The parts by their first row.

    Raises:
        DataError: one is not a part of a source, or they cannot be merged, leave rows out or overlap.
    """
    from simsiam_eval.features.file import differences
    from simsiam_eval.runtime.progress import say

    first = parts[0]
    if len(parts) == 1 and "rows" not in first.attributes["source"]:  # --rows 0:1000 of a source of 1000 is all of it
        first.attributes["source"] |= {"rows": [0, len(first)], "rows_of": len(first)}
    for part in parts:
        if "rows" not in part.attributes["source"]:
            raise DataError(f"{part.path} is not a part written by `extract --rows` (no source.rows).")
        differ = differences(part.attributes, {key: first.attributes[key] for key in _COMMON})
        differ += differences({"source": _source_of_all(part)}, {"source": _source_of_all(first)})
        if differ:
            raise DataError(f"{first.path} and {part.path} cannot be merged: they differ in {differ[0]}.")
        for key in ("versions", "computation"):
            if part.attributes[key] != first.attributes[key]:
                say(f"{part.path} was written with different {key} than {first.path}: its last digits may differ.")
    parts = sorted(parts, key=lambda part: part.attributes["source"]["rows"])
    for one, two in pairwise(parts):
        end, start = one.attributes["source"]["rows"][1], two.attributes["source"]["rows"][0]
        if start != end:
            what = f"rows {end} to {start - 1} are missing" if start > end else f"row {start} is duplicated"
            raise DataError(f"Between {one.path} and {two.path} {what}: pass consecutive parts.")
    return parts


def _source_of_all(part: FeatureReader) -> dict[str, Any]:
    return {key: value for key, value in part.attributes["source"].items() if key != "rows"}


def _attributes_of_all(parts: Sequence[FeatureReader]) -> dict[str, Any]:
    """Root attributes of the joined file; those of a whole source are what one extraction of it has."""
    first = parts[0].attributes
    source = _source_of_all(parts[0])
    rows = [first["source"]["rows"][0], parts[-1].attributes["source"]["rows"][1]]
    if rows == [0, source.get("rows_of")]:
        del source["rows_of"]
    else:
        source["rows"] = rows
    kept = ("encoder", "preprocessing", "views", "precision", "computation")
    return {key: first[key] for key in kept} | {"source": source}


class _JoinedRows:
    """Ids and labels of all parts, read on demand, as FeatureWriter takes them."""

    def __init__(self, parts: Sequence[FeatureReader]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def ids_of(self, rows: range) -> list[str]:
        return [name for part, piece in self._pieces(rows) for name in part.ids(piece)]

    @property
    def labels(self) -> _JoinedRows:
        return self

    def __getitem__(self, rows: slice, /) -> NDArray[np.int64]:
        import numpy as np

        return np.concatenate([part.labels(piece) for part, piece in self._pieces(range(rows.start, rows.stop))])

    def _pieces(self, rows: range) -> Iterator[tuple[FeatureReader, range]]:
        first = 0
        for part in self._parts:
            piece = range(max(rows.start - first, 0), min(rows.stop - first, len(part)))
            if piece:
                yield part, piece
            first += len(part)


def _write(parts: Sequence[FeatureReader], attributes: dict[str, Any], out: Path) -> int:
    """Copy the parts block by block; returns how many images could not be read."""
    from simsiam_eval.features.writer import FeatureWriter
    from simsiam_eval.runtime.progress import progress

    rows = _JoinedRows(parts)
    with FeatureWriter(out, rows, parts[0].columns, parts[0].attributes["dtype"], attributes) as writer:
        first = 0
        with progress(f"merge {out.name}", len(rows)) as advance:
            for part in parts:
                for start in range(0, len(part), part.block_rows):
                    here = range(start, min(start + part.block_rows, len(part)))
                    if not writer.is_written(range(first + here.start, first + here.stop)):
                        reasons = {first + row: why for row, why in part.reasons(here).items()}
                        writer.write(first + start, part.block(here).columns, reasons)
                    advance(len(here))
                first += len(part)
        return writer.finish()


def _write_virtual(parts: Sequence[FeatureReader], attributes: dict[str, Any], out: Path) -> int:
    """Datasets that point at those of the parts; `errors` is copied."""
    import h5py

    from simsiam_eval.features.layout import add_errors, add_header
    from simsiam_eval.files.atomic import atomic_write

    errors = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as target, h5py.File(target, "w") as file:
        add_header(file, attributes)
        for name in ("labels", "ids", "valid", *parts[0].columns):
            _point(file, name, parts, out)
        first = 0
        for part in parts:
            errors += [(first + row, *why) for row, why in part.reasons(range(len(part))).items()]
            first += len(part)
        add_errors(file, errors)
        file.attrs["complete"] = True
    return len(errors)


def _point(file: Any, name: str, parts: Sequence[FeatureReader], out: Path) -> None:
    import h5py

    from simsiam_eval.features.file import in_hdf5

    sources = [part.file[name] for part in parts]
    kind = max((source.dtype for source in sources), key=lambda dtype: dtype.itemsize)  # ids: the longest
    layout = h5py.VirtualLayout((sum(map(len, sources)), *sources[0].shape[1:]), kind)
    first, folder = 0, out.resolve().parent
    for part, source in zip(parts, sources, strict=True):
        path = in_hdf5(os.path.relpath(part.path.resolve(), folder))
        layout[first : first + len(source)] = h5py.VirtualSource(path, name, source.shape, source.dtype)
        first += len(source)
    file.create_virtual_dataset(name, layout)
