"""Images and an encoder -> features, in order, by blocks of rows that are the same whatever computes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.blocks import Block, Blocks, map_blocks, read_blocks
from simsiam_eval.extraction.fused_blocks import can_fuse
from simsiam_eval.extraction.inference import FeatureModel, PendingFeatures
from simsiam_eval.features.table import Features
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.progress import say

if TYPE_CHECKING:
    from simsiam_eval.encoders.encoder import Encoder
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.sources.base import ImageSource

T = TypeVar("T")
Pending = TypeVar("Pending")

_NAMED = 5  # unreadable images named on the terminal; all of them are in a feature file's `errors`
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
        options: ExtractionOptions,
        device: torch.device,
        rows: range | None = None,
    ) -> None:
        self.encoder, self.source, self.preprocessing = encoder, source, preprocessing
        self.options, self.device = options, device
        self.rows = range(len(source)) if rows is None else rows
        self.views = options.views
        self.batch = options.batch or _BATCH[device.type]

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
        on_cpu, workers = self.device.type == "cpu", self.options.workers
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
        return Blocks(self.source, self.preprocessing, self.rows, starts, *shape, self.options.seed)

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
            stored = [values.astype(self.options.dtype).reshape(len(values), -1) for values in columns.values()]
        finite = np.all([np.isfinite(values).all(axis=1) for values in stored], axis=0)
        why = f"the encoder's features are not finite in {self.options.dtype}"
        reasons = {block.rows[place]: why for place in np.flatnonzero(~finite)}
        return BlockFeatures(block.rows, columns, reasons | block.reasons)

    @property
    def computation(self) -> dict[str, Any]:
        """What may move features by float32's rounding: the same in all parts of a file."""
        compiled = self.options.compile
        fused = not compiled and can_fuse(self.device, self.options.precision)
        return {"batch": self.batch, "compiled": compiled, "fused": fused, "device": self.device.type}

    @cached_property
    def _model(self) -> FeatureModel:
        options = self.options
        return FeatureModel(
            self.encoder,
            self.preprocessing,
            self.device,
            options.precision,
            options.compile,
            options.flip_average,
            options.normalize,
        )


def extract_to_memory(
    extraction: Extraction,
    attributes: Mapping[str, Any] | None = None,
    after_block: Callable[[BlockFeatures], None] | None = None,
) -> Features:
    """The features of every image that can be read, in memory, without a file.

    Args:
        attributes: what a feature file of them would say; default: preprocessing, precision, spec and class names only.
        after_block: called with every block; default: names the first unreadable images, and with `strict` rejects them.

    Raises:
        DataError: no image can be read; with `strict`, an unreadable image.
    """
    source, unreadable = extraction.source, 0
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in extraction.columns}
    rows: list[int] = []
    for block in extraction.compute(extraction.starts):
        if after_block is not None:
            after_block(block)
        else:
            for row, reason in sorted(block.reasons.items()):
                report_unreadable(extraction, row, reason, unreadable)
                unreadable += 1
        readable = np.array([row not in block.reasons for row in block.rows])
        rows += np.asarray(block.rows)[readable].tolist()
        for name, values in block.columns.items():
            columns[name].append(values[readable])
    if not rows:
        raise DataError(f"No image of {source.spec} could be read.")
    class_names = None if source.class_names is None else list(source.class_names)
    attributes = attributes or {
        "encoder": {},
        "preprocessing": extraction.preprocessing.to_dict(),
        "source": {"spec": source.spec, "class_names": class_names},
        "precision": extraction.options.precision,
    }
    further = {name: np.concatenate(blocks) for name, blocks in columns.items()}
    return Features(
        features=further.pop("features"),
        labels=source.labels[rows],
        ids=np.array([source.id(row) for row in rows], dtype=str),
        attributes=dict(attributes),
        unreadable=len(extraction.rows) - len(rows),
        rows=np.array(rows, dtype=np.int64),
        width=extraction.encoder.width,
        columns=further,
    )


def report_unreadable(extraction: Extraction, row: int, reason: str, reported: int) -> None:
    """Name an unreadable image on the terminal, if fewer than a few were `reported` before.

    Raises:
        DataError: the option `strict` is on.
    """
    name = extraction.source.id(row)
    if extraction.options.strict:
        raise DataError(f"Image {name} (row {row}) could not be read: {reason}; without --strict it is skipped.")
    if reported < _NAMED:
        say(f"skipped {name} (row {row}): {reason}")
