"""Features of images, computed in blocks of rows whose result does not depend on the process that computes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.encoders.encoder import Encoder, ResNetEncoder
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.blocks import Block, Blocks, map_blocks, read_blocks
from simsiam_eval.extraction.fused_blocks import can_fuse
from simsiam_eval.extraction.inference import FeatureModel, PendingFeatures
from simsiam_eval.features.table import Features
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.sources.base import ImageSource

T = TypeVar("T")
Pending = TypeVar("Pending")

_MAX_REPORTED = 5  # unreadable images reported on the terminal; a feature file's `errors` lists all of them
_DEFAULT_BATCH = {"cpu": 8, "cuda": 256}  # on a CPU per core (benchmarks/results/extract_blocks.md)


@dataclass(frozen=True)
class BlockFeatures:
    """The features of one block.

    Attributes:
        rows: row numbers.
        columns: dataset of the feature file -> (B,...) float32.
        reasons: row -> why it has no features.
    """

    rows: range
    columns: dict[str, NDArray[np.float32]]
    reasons: dict[int, str]


class Extraction:
    """The features of rows of a source, in blocks: each is a pure function of its first row, in any process at any time.

    A block is one forward pass of `batch` rows. An unreadable image is replaced by a black one, and the last block is
    padded, so that features depend neither on where an earlier run was killed nor on the number of workers.

    Args:
        rows: rows of the source to extract; default: all.

    Raises:
        DataError: images do not have the channels that the encoder takes.
    """

    center_crop = True  # whether blocks hold the center crop; zeros otherwise

    def __init__(
        self,
        encoder: Encoder,
        source: ImageSource,
        preprocessing: Preprocessing,
        options: ExtractionOptions,
        device: torch.device,
        rows: range | None = None,
    ) -> None:
        preprocessing.require_images()
        if preprocessing.channels != encoder.variant.channels:
            raise DataError(
                f"The encoder expects images of {counted(encoder.variant.channels, 'channel')}, but the recorded "
                f"preprocessing gives {preprocessing.channels}; extract the features again."
            )
        self.encoder, self.source, self.preprocessing = encoder, source, preprocessing
        self.options, self.device = options, device
        self.rows = range(len(source)) if rows is None else rows
        source.require(self.rows, preprocessing.selection, preprocessing.intensity)
        self.views = options.views
        self.batch = options.batch or _DEFAULT_BATCH[device.type]

    @property
    def columns(self) -> dict[str, tuple[int, ...]]:
        """Dataset of the feature file -> shape of its rows."""
        names = ["features", *(f"layers/{name}" for name in self.encoder.layers[1:])]
        shapes: dict[str, tuple[int, ...]] = {
            name: (width,) for name, width in zip(names, self.encoder.widths, strict=True)
        }
        return shapes | ({"views": (self.views, self.encoder.width)} if self.views else {})

    @property
    def starts(self) -> range:
        """First row of each block."""
        return self.rows[:: self.batch]

    def compute(self, starts: Sequence[int] | NDArray[np.int64]) -> Generator[BlockFeatures]:
        """Compute the blocks that begin at `starts`; yields them in that order."""
        return self._map_blocks(starts, self._launch, self._collect)

    def _map_blocks(
        self,
        starts: Sequence[int] | NDArray[np.int64],
        launch: Callable[[Block], Pending],
        collect: Callable[[Block, Pending], T],
    ) -> Generator[T]:
        """Yield `collect(block, launch(block))` in order; on a GPU the next block is launched before one is collected."""
        blocks = self._blocks(starts)
        if blocks:
            _ = self.model  # created here, before there are threads
        on_cpu, workers = self.device.type == "cpu", self.options.workers
        if on_cpu and workers is None:
            yield from map_blocks(blocks, lambda block: collect(block, launch(block)))
            return
        launched: deque[tuple[Block, Pending]] = deque()
        for block in read_blocks(blocks, workers, self.device):
            launched.append((block, launch(block)))
            if len(launched) > 1 or on_cpu:
                yield collect(*launched.popleft())
        for pair in launched:
            yield collect(*pair)

    def _blocks(self, starts: Sequence[int] | NDArray[np.int64]) -> Blocks:
        shape = self.batch, self.views, self.center_crop
        return Blocks(self.source, self.preprocessing, self.rows, starts, *shape, self.options.seed)

    def _launch(self, block: Block) -> list[PendingFeatures]:
        pixels = block.pixels.to(self.device, non_blocking=True)
        return [self.model.start(view) for view in pixels.unbind(1)]

    def _collect(self, block: Block, pending: list[PendingFeatures]) -> BlockFeatures:
        center, *views = [view.read() for view in pending]
        columns = dict(zip(self.columns, center, strict=False))
        if self.views:
            columns["views"] = np.stack([layers[0] for layers in views], axis=1)
        columns = {name: values[: len(block.rows)] for name, values in columns.items()}
        with np.errstate(over="ignore"):
            stored = [values.astype(self.options.dtype).reshape(len(values), -1) for values in columns.values()]
        finite = np.all([np.isfinite(values).all(axis=1) for values in stored], axis=0)
        reason = f"the encoder's features are not finite in {self.options.dtype}"
        reasons = {block.rows[index]: reason for index in np.flatnonzero(~finite)}
        return BlockFeatures(block.rows, columns, reasons | block.reasons)

    @property
    def computation(self) -> dict[str, Any]:
        """Settings that may change features by float32 rounding errors; they must be equal in all parts of a file."""
        compiled = self.options.compile
        is_resnet = isinstance(self.encoder, ResNetEncoder)
        fused = is_resnet and not compiled and can_fuse(self.device, self.options.precision)
        return {"batch": self.batch, "compiled": compiled, "fused": fused, "device": self.device.type}

    @cached_property
    def model(self) -> FeatureModel:
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
    """Extract the features of all readable images into memory.

    Args:
        attributes: root attributes, as of a feature file; default: preprocessing, precision, spec and class names only.
        after_block: called with every block; default: report the first unreadable images, or reject them with `strict`.

    Raises:
        DataError: no image can be read; with `strict`, an image cannot be read.
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
    arrays = {name: np.concatenate(blocks) for name, blocks in columns.items()}
    return Features(
        features=arrays.pop("features"),
        labels=source.labels[rows],
        ids=np.array([source.id(row) for row in rows], dtype=str),
        attributes=dict(attributes),
        unreadable=len(extraction.rows) - len(rows),
        rows=np.array(rows, dtype=np.int64),
        width=extraction.encoder.width,
        columns=arrays,
    )


def report_unreadable(extraction: Extraction, row: int, reason: str, reported: int) -> None:
    """Report an unreadable image on the terminal, unless several were `reported` before.

    Raises:
        DataError: the option `strict` is on.
    """
    name = extraction.source.id(row)
    if extraction.options.strict:
        raise DataError(f"Image {name} (row {row}) could not be read: {reason}. Without --strict it would be skipped.")
    if reported < _MAX_REPORTED:
        say(f"skipped {name} (row {row}): {reason}")
