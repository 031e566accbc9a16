"""The linear protocol as the reference trains it: new random crops in every epoch, through the frozen encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.encoders.checkpoint import load_encoder, weights_sha256
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.blocks import Block
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.inference import PendingFeatures
from simsiam_eval.extraction.plan import ExtractionOptions
from simsiam_eval.features.table import Features
from simsiam_eval.sources.base import ImageSource


def seed_of_epoch(seed: int, epoch: int) -> int:
    """The seed of an epoch's views: another for every pair.

    >>> seed_of_epoch(0, 0) == seed_of_epoch(0, 0), seed_of_epoch(0, 1) == seed_of_epoch(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


class EndToEndFeed:
    """The features of one new view (RandomResizedCrop and flip) of every training image in every epoch.

    The encoder is frozen and in eval mode, so that features of the whole epoch first and the head's steps after them are
    the same as the reference's one batch after the other.

    Args:
        source: of the training images.
        options: how features are taken from them.
        train: features of center crops of the same images; only their rows of the source are used.
        needed: (M,) which of those N rows are trained on; the others' features are not computed.
        layers: of the encoder.
    """

    name, costly = "end-to-end", True

    def __init__(
        self,
        checkpoint: Path,
        source: ImageSource,
        options: ExtractionOptions,
        train: Features,
        needed: NDArray[np.int64],
        layers: list[str],
        device: torch.device,
    ) -> None:
        self._encoder, report = load_encoder(checkpoint, layers, options.pooling)
        self._options = replace(options, views=1, layers=tuple(layers))
        preprocessing = options.preprocessing(report)
        self._work = ViewExtraction(self._encoder, source, preprocessing, self._options, device)
        self._rows, self._needed = torch.from_numpy(train.rows), set(train.rows[needed].tolist())
        self._device = device
        self._before = report.weights_sha256, self._work.sha256()

    def __call__(self, epoch: int) -> dict[str, torch.Tensor]:
        """(N,D) of each layer; zeros in rows that are not needed.

        Raises:
            DataError: an image that could be read cannot be read any more.
        """
        self._work.options = replace(self._options, seed=seed_of_epoch(self._options.seed, epoch))
        found = self._work.of_views(self._needed)
        return {layer: values[self._rows].to(self._device) for layer, values in found.items()}

    def described(self) -> dict[str, Any]:
        """What the record says of the encoder after the last epoch.

        Raises:
            DataError: its weights are not what they were before the first.
        """
        after = weights_sha256(self._encoder.trunk.state_dict()), self._work.sha256()
        if after != self._before:
            raise DataError("The encoder's weights changed while the head was trained: this is no linear evaluation.")
        return {"weights_sha256_before": self._before[0], "weights_sha256_after": after[0], "encoder_unchanged": True}


class ViewExtraction(Extraction):
    """The views alone, without the center crops."""

    center_crop = False

    def sha256(self) -> str:
        """Of the weights as they are used."""
        return self._model.weights_sha256()

    def _begun(self, block: Block) -> list[PendingFeatures]:
        return [self._model.start(block.pixels.to(self.device, non_blocking=True)[:, 1])]

    def of_views(self, needed: set[int]) -> dict[str, torch.Tensor]:
        """Layer -> (rows of the source,D) features of one view of every needed row."""
        widths = zip(self.encoder.layers, self.encoder.widths, strict=True)
        found = {layer: torch.zeros(len(self.rows), width) for layer, width in widths}
        starts = [first for first in self.starts if not needed.isdisjoint(range(first, first + self.batch))]
        for block, view in self._each(starts, self._begun, lambda block, views: (block, views[0].read())):
            lost = sorted(needed & block.reasons.keys())
            if lost:
                raise DataError(f"{self.source.id(lost[0])} cannot be read any more: {block.reasons[lost[0]]}.")
            for values, layer in zip(view, found.values(), strict=True):
                layer[block.rows.start : block.rows.stop] = torch.from_numpy(values[: len(block.rows)])
        return found
