"""Write an extraction to a feature file, from one process or several; resume an unfinished file."""

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
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    from simsiam_eval.sources.base import ImageSource

Engine = Callable[[Extraction, NDArray[np.int64]], Generator[BlockFeatures]]


def write_extraction(
    extraction: Extraction,
    attributes: Mapping[str, Any],
    out: Path,
    processes: Processes,
    engine: Engine = Extraction.compute,
    cached: bool = False,
) -> tuple[int, int]:
    """Extract features to the feature file `out`; an unfinished file is resumed.

    Args:
        attributes: root attributes of the file, needed by the main process only.
        processes: the processes that share the extraction; each computes consecutive blocks.
        engine: computes the blocks that begin at given rows; it may yield them in any order.

    Returns:
        The number of rows that all processes computed in this run, and the number of unreadable images in the file.

    Raises:
        DataError: `out` holds other features or cannot be written; with `strict`, an image cannot be read.
    """
    existing = _complete_file(extraction, attributes, out, cached) if processes.main else None
    if processes.largest(0 if existing is None else 1):
        return 0, int(processes.largest(0 if existing is None else int(existing["unreadable"])))
    rows, source = extraction.rows, extraction.source
    with closing(_shared_writer(extraction, attributes, out, processes)) as writer:
        if extraction.options.strict and (unreadable := writer.unreadable()):
            raise DataError(
                f"{counted(unreadable, 'image')} could not be read in an earlier run. "
                "Without --strict they would be skipped."
            )
        starts = np.array(extraction.starts, dtype=np.int64)
        lengths = np.minimum(extraction.batch, rows.stop - starts)
        written = np.array(
            [writer.is_written(_rows_in_file(extraction, start)) for start in starts.tolist()], dtype=bool
        )
        missing = int(lengths[~written].sum())
        if processes.main and missing < len(rows):
            say(f"{out}: resuming, {len(rows) - missing} of {len(rows)} rows are already written.")
        processes.barrier()  # no process writes before all have read which rows are missing
        # Consecutive blocks, so that a shard, row group or chunk is read by one process.
        own_blocks = np.array_split(np.flatnonzero(~written), processes.world)[processes.rank]
        done, reported = int(lengths[written].sum()) // processes.world, 0
        total = done + int(lengths[own_blocks].sum())
        # Closed explicitly: after a signal, a generator is otherwise closed only when the traceback is freed.
        with (
            progress(f"extract {out.name}", total, done, shown=processes.main) as advance,
            closing(engine(extraction, starts[own_blocks])) as blocks,
        ):
            for block in blocks:
                reasons = {}
                for row, reason in sorted(block.reasons.items()):
                    reasons[row - rows.start] = (source.id(row), reason)
                    report_unreadable(extraction, row, reason, reported)
                    reported += 1
                writer.write(block.rows.start - rows.start, block.columns, reasons)
                advance(len(block.rows))
        writer.sync()
        processes.barrier()  # the main process finishes the file after all rows are written
        unreadable = int(processes.largest(writer.finish() if processes.main else 0))
    if unreadable and processes.main:
        say(f"{unreadable} of {len(rows)} images could not be read; see `errors` in {out}.")
    return missing, unreadable


def _complete_file(
    extraction: Extraction, attributes: Mapping[str, Any], out: Path, cached: bool
) -> dict[str, Any] | None:
    """The attributes of `out` if it exists. Raises DataError if it holds other features."""
    if not out.exists():
        return None
    existing = read_attributes(out)
    expected = {key: value for key, value in attributes.items() if key != "computation"}
    differing = differences(existing, expected | {"dtype": extraction.options.dtype, "columns": extraction.columns})
    if differing:
        unreadable = counted(int(existing["unreadable"]), "image")
        repaired = f", or remove it if its {unreadable} that could not be read were repaired" * bool(
            existing["unreadable"]
        )
        raise DataError(
            f"{out} contains features of another encoder, images or settings ({', '.join(differing)}): choose another "
            f"--out{repaired}."
        )
    if extraction.options.strict and existing["unreadable"]:
        raise DataError(
            f"{out} already exists, but {counted(existing['unreadable'], 'image')} could not be read (--strict)."
        )
    remove_sidecars(out)
    if not cached:
        say(f"{out} already exists and is complete; nothing to do.")
    return existing


def _shared_writer(
    extraction: Extraction, attributes: Mapping[str, Any], out: Path, processes: Processes
) -> FeatureWriter:
    """Create the file in the main process, then open it in the others."""
    rows = SourceRows(extraction.source, extraction.rows)

    def open_writer() -> FeatureWriter:
        return FeatureWriter(out, rows, extraction.columns, extraction.options.dtype, attributes, processes.rank)

    writer = open_writer() if processes.main else None
    processes.barrier()
    return writer or open_writer()


def _rows_in_file(extraction: Extraction, start: int) -> range:
    """Rows of the file that hold the block which begins at row `start` of the source."""
    first = start - extraction.rows.start
    return range(first, min(first + extraction.batch, len(extraction.rows)))


class SourceRows:
    """Ids and labels of a range of rows of a source, as FeatureWriter takes them."""

    def __init__(self, source: ImageSource, rows: range) -> None:
        self._source, self._rows = source, rows

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._source.labels[self._rows.start : self._rows.stop]

    def __len__(self) -> int:
        return len(self._rows)

    def ids_of(self, rows: range) -> list[str]:
        return self._source.ids_of(self._rows[rows.start : rows.stop])
