"""Online kNN: how good the encoder is while it is being pretrained (InstDisc's monitor, as the field uses it)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.settings import PretrainSettings
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.extraction.extraction import Extraction, extract_to_memory
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.neighbors.exact import search_blocks
from simsiam_eval.neighbors.votes import weighted_vote
from simsiam_eval.runtime.signals import StopRequest
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source


class KnnMonitor:
    """kNN accuracy on --val, with the pretraining images as the bank.

    Raises:
        DataError: one of the two has no labels, or a class that the bank has not.
    """

    def __init__(self, settings: PretrainSettings, bank: ImageSource, preprocessing: Preprocessing) -> None:
        assert settings.val is not None
        self._settings, self._preprocessing = settings, preprocessing
        queries = open_source(settings.val, "test")
        for source in (bank, queries):
            if (source.labels < 0).all():
                raise DataError(f"{source.spec} has no labels: the online kNN of --val needs those of both.")
        if bank.class_names != queries.class_names:
            raise DataError(f"{queries.spec} and {bank.spec} do not have the same classes: leave out --val.")
        self._sources = bank, queries

    @torch.no_grad()
    def accuracy(self, trunk: torch.nn.Module, device: torch.device, stop: StopRequest) -> float:
        """Share of the queries that the vote names rightly, by the trunk's pooled features of one center crop.

        Raises:
            Stopped: it was asked to, meanwhile.
        """
        settings = self._settings
        encoder = Encoder(trunk, settings.arch, settings.stem)  # type: ignore[arg-type]
        (bank, bank_labels), (queries, labels) = (
            self._features(encoder, source, device, stop) for source in self._sources
        )
        right = 0
        for which, similarities, rows in search_blocks(bank, queries, settings.knn_k, device=device):
            _refuse_to_go_on(stop)
            guesses = weighted_vote(similarities, bank_labels[rows], settings.knn_temperature, top=1)[:, 0]
            right += int((guesses == labels[which]).sum())
        return right / len(queries)

    def _features(
        self, encoder: Encoder, source: ImageSource, device: torch.device, stop: StopRequest
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Of the labeled images that can be read: (N,D) and (N,)."""
        options = ExtractionOptions(precision=self._settings.precision, workers=self._settings.workers)
        work = Extraction(encoder, source, self._preprocessing, options, device)
        features = extract_to_memory(work, after_block=lambda block: _refuse_to_go_on(stop))
        labeled = np.flatnonzero(features.labels >= 0)
        if not len(labeled):
            raise DataError(f"{source.spec} has no labeled image that can be read")
        return features.features[labeled], features.labels[labeled]


def _refuse_to_go_on(stop: StopRequest) -> None:
    if stop.status:
        raise Stopped("Stopped in the online kNN.", stop.status)
