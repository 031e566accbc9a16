"""End-to-end features as the reference trains on: new random crops in every epoch, through the frozen encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.blocks import Block
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.inference import PendingFeatures
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.features.table import Features
from simsiam_eval.sources.base import ImageSource


def seed_of_epoch(seed: int, epoch: int) -> int:
    """The seed of the views of an epoch, different for every pair.

    >>> seed_of_epoch(0, 0) == seed_of_epoch(0, 0), seed_of_epoch(0, 1) == seed_of_epoch(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


class EndToEndFeed:
    """Features of one new view (RandomResizedCrop and flip) of every training image in every epoch.

    The features of an epoch are computed before the steps of the head. That gives the same head as the reference, which
    alternates batch by batch, because the encoder is frozen and in eval mode.

    Args:
        choice: the encoder.
        source: training images.
        options: how features are computed.
        train: features (N,D) of center crops of the same images; only their rows of the source are used.
        needed: (M,) rows of `train` whose features are used; the others are not computed.
        layers: layers of the encoder.
    """

    name, costly = "end-to-end", True

    def __init__(
        self,
        choice: EncoderChoice,
        source: ImageSource,
        options: ExtractionOptions,
        train: Features,
        needed: NDArray[np.int64],
        layers: list[str],
        device: torch.device,
    ) -> None:
        self._encoder, report = load_encoder(choice, layers, options.pooling)
        self._computation = report.computation
        self._options = replace(options, views=1, layers=tuple(layers))
        preprocessing = options.with_scale_of(train.attributes).preprocessing(report)
        self._extraction = ViewExtraction(self._encoder, source, preprocessing, self._options, device)
        self._rows, self._needed = torch.from_numpy(train.rows), set(train.rows[needed].tolist())
        self._device = device
        self._before = report.weights_sha256, self._extraction.sha256()

    def __call__(self, epoch: int) -> dict[str, torch.Tensor]:
        """Layer -> (N,D) float32; rows that are not needed are zeros.

        Raises:
            DataError: an image that was readable before cannot be read.
        """
        self._extraction.options = replace(self._options, seed=seed_of_epoch(self._options.seed, epoch))
        layers = self._extraction.view_features(self._needed)
        return {layer: values[self._rows].to(self._device) for layer, values in layers.items()}

    def checked_encoder(self) -> dict[str, Any]:
        """Hashes of the encoder's weights before the first epoch and now, for the record.

        Raises:
            DataError: the weights have changed.
        """
        after = weights_sha256(self._encoder.trunk.state_dict(), self._computation), self._extraction.sha256()
        if after != self._before:
            raise DataError("The encoder's weights changed during training, so that this is not a linear evaluation.")
        return {"weights_sha256_before": self._before[0], "weights_sha256_after": after[0], "encoder_unchanged": True}


class ViewExtraction(Extraction):
    """Extraction of views only, without center crops."""

    center_crop = False

    def sha256(self) -> str:
        """Hash of the weights as the extraction uses them, on its device."""
        return self.model.weights_sha256()

    def _launch(self, block: Block) -> list[PendingFeatures]:
        return [self.model.start(block.pixels.to(self.device, non_blocking=True)[:, 1])]

    def view_features(self, needed: set[int]) -> dict[str, torch.Tensor]:
        """Layer -> (rows of the source,D) features of one view of each needed row; zeros in the others' blocks."""
        widths = zip(self.encoder.layers, self.encoder.widths, strict=True)
        layers = {layer: torch.zeros(len(self.rows), width) for layer, width in widths}
        starts = [first for first in self.starts if not needed.isdisjoint(range(first, first + self.batch))]
        for block, view in self._map_blocks(starts, self._launch, lambda block, views: (block, views[0].read())):
            unreadable = sorted(needed & block.reasons.keys())
            if unreadable:
                row = unreadable[0]
                raise DataError(f"{self.source.id(row)} was readable before, but is not now: {block.reasons[row]}.")
            for values, layer in zip(view, layers.values(), strict=True):
                layer[block.rows.start : block.rows.stop] = torch.from_numpy(values[: len(block.rows)])
        return layers
