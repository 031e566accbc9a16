"""An extraction written to a feature file, by one process or several; an unfinished file is resumed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.extraction import BlockFeatures, Extraction, report_unreadable
from simsiam_eval.features.file import differences, read_attributes
from simsiam_eval.features.part_file import remove_sidecars
from simsiam_eval.features.writer import FeatureWriter
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import progress, say

if TYPE_CHECKING:
    from simsiam_eval.sources.base import ImageSource

Engine = Callable[[Extraction, NDArray[np.int64]], Generator[BlockFeatures]]


def write_extraction(
    work: Extraction,
    attributes: Mapping[str, Any],
    out: Path,
    processes: Processes,
    engine: Engine = Extraction.compute,
) -> tuple[int, int]:
    """Write the features of `work` to `out`; an unfinished file is resumed.

    Args:
        attributes: root attributes of the file, needed by the first process only.
        processes: those that share the work, each a run of what is left.
        engine: what maps block numbers to features; the blocks may come in any order.

    Returns:
        how many rows were computed now by all processes, and how many images could not be read.

    Raises:
        DataError: the output belongs to something else or cannot be written; with `strict`, an unreadable image.
    """
    existing = _complete_file(work, attributes, out) if processes.main else None
    if processes.largest(0 if existing is None else 1):
        return 0, 0 if existing is None else int(existing["unreadable"])
    with closing(_shared_writer(work, attributes, out, processes)) as writer:
        size, first = work.batch, work.rows.start
        if work.options.strict and (before := writer.unreadable()):
            raise DataError(
                f"{before} images could not be read in an earlier run of this extraction; without --strict they are skipped."
            )
        starts = np.array(work.starts, dtype=np.int64)
        written = np.array([writer.is_written(_in_file(work, start)) for start in starts.tolist()], dtype=bool)
        lengths = np.minimum(size, work.rows.stop - starts)
        left = int(lengths[~written].sum())
        if processes.main and left < len(work.rows):
            say(f"{out}: resuming, {len(work.rows) - left} of {len(work.rows)} rows are already written.")
        processes.barrier()  # every process has seen the file as it was
        # Consecutive blocks, so that a shard, row group or chunk is read by one process.
        mine = np.array_split(np.flatnonzero(~written), processes.world)[processes.rank]
        before, named = int(lengths[written].sum()) // processes.world, 0
        todo = before + int(lengths[mine].sum())
        # Closed explicitly: what a signal interrupts is otherwise closed only when its traceback is freed.
        with progress(f"extract {out.name}", todo, before) as advance, closing(engine(work, starts[mine])) as blocks:
            for block in blocks:
                reasons = {}
                for row, reason in sorted(block.reasons.items()):
                    reasons[row - first] = (work.source.id(row), reason)
                    report_unreadable(work, row, reason, named)
                    named += 1
                writer.write(block.rows.start - first, block.columns, reasons)
                advance(len(block.rows))
        writer.sync()
        processes.barrier()  # all rows are in the file
        unreadable = writer.finish() if processes.main else 0
        processes.barrier()
    if unreadable:
        say(f"{unreadable} of {len(work.rows)} images could not be read; they are named in `errors` of {out}.")
    return left, unreadable


def _complete_file(work: Extraction, attributes: Mapping[str, Any], out: Path) -> dict[str, Any] | None:
    if not out.exists():
        return None
    existing = read_attributes(out)
    wanted = {key: value for key, value in attributes.items() if key != "computation"}
    differing = differences(existing, wanted | {"dtype": work.options.dtype, "columns": work.columns})
    if differing:
        raise DataError(
            f"{out} holds features of another encoder, images or settings ({', '.join(differing)}): choose another --out."
        )
    if work.options.strict and existing["unreadable"]:
        raise DataError(f"{out} already exists, without {existing['unreadable']} images that could not be read.")
    remove_sidecars(out)
    say(f"{out} already exists and is complete; nothing to do.")
    return existing


def _shared_writer(work: Extraction, attributes: Mapping[str, Any], out: Path, processes: Processes) -> FeatureWriter:
    """The first process creates the file, then the others open it."""
    rows = SourceRows(work.source, work.rows)

    def opened() -> FeatureWriter:
        return FeatureWriter(out, rows, work.columns, work.options.dtype, attributes, processes.rank)

    writer = opened() if processes.main else None
    processes.barrier()
    return writer or opened()


def _in_file(work: Extraction, start: int) -> range:
    first = start - work.rows.start
    return range(first, min(first + work.batch, len(work.rows)))


class SourceRows:
    """A range of rows of a source, as FeatureWriter takes them."""

    def __init__(self, source: ImageSource, rows: range) -> None:
        self._source, self._rows = source, rows

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._source.labels[self._rows.start : self._rows.stop]

    def __len__(self) -> int:
        return len(self._rows)

    def ids_of(self, rows: range) -> list[str]:
        return self._source.ids_of(self._rows[rows.start : rows.stop])
