"""Images + encoder -> feature file, in order, by blocks of rows that are the same whatever runs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.blocks import Block, Blocks, map_blocks, read_blocks
from simsiam_eval.extraction.fused_blocks import can_fuse
from simsiam_eval.extraction.inference import FeatureModel, PendingFeatures
from simsiam_eval.features.file import differences, read_attributes
from simsiam_eval.features.writer import FeatureWriter, remove_notes
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import progress, say

if TYPE_CHECKING:
    from simsiam_eval.encoders.encoder import Encoder
    from simsiam_eval.extraction.settings import FeatureSettings
    from simsiam_eval.sources.base import ImageSource

T = TypeVar("T")
Pending = TypeVar("Pending")

_NAMED = 5  # unreadable images named on the terminal; all of them are in the file's `errors`
_BATCH = {"cpu": 8, "cuda": 256}  # a CPU's is each core's (benchmarks/results/extract_blocks.md)


@dataclass(frozen=True)
class BlockFeatures:
    """What becomes of a block: the feature file's columns of its rows, float32, and row -> why it has none."""

    rows: range
    columns: dict[str, NDArray[np.float32]]
    reasons: dict[int, str]


class Extraction:
    """The features of some rows of a source, as a pure function of block numbers: which process computes a block, and
    when, changes nothing.

    Every block of `batch` rows is one forward pass, an unreadable image a black one in its place, the last block filled
    up, so that features do not depend on where an earlier run was killed, nor on the number of workers.

    Args:
        rows: of the source; default: all.
    """

    center_crop = True  # whether blocks hold it; zeros otherwise

    def __init__(
        self,
        encoder: Encoder,
        source: ImageSource,
        preprocessing: Preprocessing,
        settings: FeatureSettings,
        device: torch.device,
        rows: range | None = None,
    ) -> None:
        self.encoder, self.source, self.preprocessing = encoder, source, preprocessing
        self.settings, self.device = settings, device
        self.rows = range(len(source)) if rows is None else rows
        self.views = settings.views
        self.batch = settings.extract_batch or _BATCH[device.type]

    @property
    def columns(self) -> dict[str, tuple[int, ...]]:
        """Dataset of the feature file -> shape of a row in it."""
        names = ["features", *(f"layers/{name}" for name in self.encoder.layers[1:])]
        found: dict[str, tuple[int, ...]] = {
            name: (width,) for name, width in zip(names, self.encoder.widths, strict=True)
        }
        return found | ({"views": (self.views, self.encoder.width)} if self.views else {})

    @property
    def starts(self) -> range:
        """First rows of the blocks."""
        return self.rows[:: self.batch]

    def compute(self, starts: Sequence[int] | NDArray[np.int64]) -> Generator[BlockFeatures]:
        """The blocks that begin at `starts`, in that order."""
        return self._each(starts, self._begun, self._finished)

    def _each(
        self,
        starts: Sequence[int] | NDArray[np.int64],
        begin: Callable[[Block], Pending],
        finish: Callable[[Block, Pending], T],
    ) -> Generator[T]:
        """What the two make of the blocks, in order; a GPU has begun the next one while one is finished."""
        blocks = self._blocks(starts)
        if blocks:
            _ = self._model  # made once, before there are threads
        on_cpu, workers = self.device.type == "cpu", self.settings.workers
        if on_cpu and workers is None:
            yield from map_blocks(blocks, lambda block: finish(block, begin(block)))
            return
        working: deque[tuple[Block, Pending]] = deque()
        for block in read_blocks(blocks, workers, self.device):
            working.append((block, begin(block)))
            if len(working) > 1 or on_cpu:
                yield finish(*working.popleft())
        for pair in working:
            yield finish(*pair)

    def _blocks(self, starts: Sequence[int] | NDArray[np.int64]) -> Blocks:
        shape = self.batch, self.views, self.center_crop
        return Blocks(self.source, self.preprocessing, self.rows, starts, *shape, self.settings.seed)

    def _begun(self, block: Block) -> list[PendingFeatures]:
        pixels = block.pixels.to(self.device, non_blocking=True)
        return [self._model.start(view) for view in pixels.unbind(1)]

    def _finished(self, block: Block, views: list[PendingFeatures]) -> BlockFeatures:
        found = [view.read() for view in views]
        columns = dict(zip(self.columns, found[0], strict=False))
        if self.views:
            columns["views"] = np.stack([view[0] for view in found[1:]], axis=1)
        columns = {name: values[: len(block.rows)] for name, values in columns.items()}
        with np.errstate(over="ignore"):
            stored = [values.astype(self.settings.dtype).reshape(len(values), -1) for values in columns.values()]
        finite = np.all([np.isfinite(values).all(axis=1) for values in stored], axis=0)
        why = f"the encoder's features are not finite in {self.settings.dtype}"
        reasons = {block.rows[place]: why for place in np.flatnonzero(~finite)}
        return BlockFeatures(block.rows, columns, reasons | block.reasons)

    @property
    def computation(self) -> dict[str, Any]:
        """What may move features by float32's rounding: the same in all parts of a file."""
        compiled = self.settings.compile == "on"
        fused = not compiled and can_fuse(self.device, self.settings.precision)
        return {"batch": self.batch, "compiled": compiled, "fused": fused, "device": self.device.type}

    @cached_property
    def _model(self) -> FeatureModel:
        chosen = self.settings
        return FeatureModel(
            self.encoder,
            self.preprocessing,
            self.device,
            chosen.precision,
            chosen.compile == "on",
            chosen.flip_average,
            chosen.normalize,
        )


Engine = Callable[[Extraction, NDArray[np.int64]], Generator[BlockFeatures]]


def write_extraction(
    work: Extraction,
    attributes: Mapping[str, Any],
    out: Path,
    processes: Processes,
    engine: Engine = Extraction.compute,
) -> tuple[int, int]:
    """Write the features of `work` to `out`; goes on with an unfinished file.

    Args:
        attributes: root attributes of the file, needed by the first process only.
        processes: those that share the work, each a run of what is left.
        engine: what maps block numbers to features; the blocks may come in any order.

    Returns:
        how many rows were computed now by all processes, and how many images could not be read.

    Raises:
        DataError: the output belongs to something else or cannot be written; with `strict`, an unreadable image.
    """
    there = _complete_file(work, attributes, out) if processes.main else None
    if processes.largest(0 if there is None else 1):
        return 0, 0 if there is None else int(there["unreadable"])
    with closing(_shared_writer(work, attributes, out, processes)) as writer:
        size, first = work.batch, work.rows.start
        if work.settings.strict and (before := writer.unreadable()):
            raise DataError(
                f"{before} images could not be read when {out} was begun; without --strict they are skipped."
            )
        starts = np.array(work.starts, dtype=np.int64)
        written = np.array([writer.is_written(_in_file(work, start)) for start in starts.tolist()], dtype=bool)
        lengths = np.minimum(size, work.rows.stop - starts)
        left = int(lengths[~written].sum())
        if processes.main and left < len(work.rows):
            say(f"{out}: going on, {len(work.rows) - left} of {len(work.rows)} rows are there.")
        processes.barrier()  # every process has seen the file as it was
        # What follows each other, so that a shard, row group or chunk is read by one process.
        mine = np.array_split(np.flatnonzero(~written), processes.world)[processes.rank]
        before, named = int(lengths[written].sum()) // processes.world, 0
        todo = before + int(lengths[mine].sum())
        # Closed by name: what a signal interrupts is else only closed when its traceback is gone.
        with progress(f"extract {out.name}", todo, before) as advance, closing(engine(work, starts[mine])) as blocks:
            for block in blocks:
                reasons = {}
                for row, reason in sorted(block.reasons.items()):
                    reasons[row - first] = (work.source.id(row), reason)
                    named = _name(work, row, reason, named)
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
    there = read_attributes(out)
    wanted = {key: value for key, value in attributes.items() if key != "computation"}
    differ = differences(there, wanted | {"dtype": work.settings.dtype, "columns": work.columns})
    if differ:
        raise DataError(
            f"{out} holds features of another encoder, images or settings ({', '.join(differ)}): choose another --out."
        )
    if work.settings.strict and there["unreadable"]:
        raise DataError(f"{out} is there already, without {there['unreadable']} images that could not be read.")
    remove_notes(out)
    say(f"{out} is there already and complete: nothing to do.")
    return there


def _shared_writer(work: Extraction, attributes: Mapping[str, Any], out: Path, processes: Processes) -> FeatureWriter:
    """The first process makes the file, the others then open it."""
    rows = SomeRows(work.source, work.rows)

    def opened() -> FeatureWriter:
        return FeatureWriter(out, rows, work.columns, work.settings.dtype, attributes, processes.rank)

    writer = opened() if processes.main else None
    processes.barrier()
    return writer or opened()


def _in_file(work: Extraction, start: int) -> range:
    first = start - work.rows.start
    return range(first, min(first + work.batch, len(work.rows)))


def _name(work: Extraction, row: int, reason: str, named: int) -> int:
    """Say which image could not be read, of the first few; with `strict`, stop."""
    if work.settings.strict:
        raise DataError(
            f"Image {work.source.id(row)} (row {row}) could not be read: {reason}; without --strict it is skipped."
        )
    if named < _NAMED:
        say(f"skipped {work.source.id(row)} (row {row}): {reason}")
    return named + 1


class SomeRows:
    """Some rows of a source, as FeatureWriter wants them."""

    def __init__(self, source: ImageSource, rows: range) -> None:
        self._source, self._rows = source, rows

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._source.labels[self._rows.start : self._rows.stop]

    def __len__(self) -> int:
        return len(self._rows)

    def ids_of(self, rows: range) -> list[str]:
        return self._source.ids_of(self._rows[rows.start : rows.stop])
