"""Online kNN: the encoder's accuracy during pretraining (InstDisc, Wu et al. 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pretrain.callback import Callback, Position
from simsiam_eval.encoders.backbones.loading import encoder_in_training
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.extraction.extraction import Extraction, extract_to_memory
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.neighbors.exact import search_blocks
from simsiam_eval.neighbors.votes import weighted_vote
from simsiam_eval.runtime.progress import say
from simsiam_eval.runtime.signals import StopRequest
from simsiam_eval.sources.base import ImageSource


class KnnMonitor(Callback):
    """Adds the kNN accuracy on `queries`, with the pretraining images as training features, to the summaries of epochs.

    If it fails, or the run is to stop meanwhile, the summary has none.

    Args:
        trunk: the encoder that is being trained.
        arch, stem: of the trunk; None for the stem of a network of timm.
        train, queries: labeled images of the same classes.
        k, temperature: of the weighted vote.
        every, epochs: it runs after every `every`-th epoch, and after the last.
        precision, workers: of the extraction.

    Raises:
        DataError: one of the two has no labels, or they do not have the same classes.
    """

    def __init__(
        self,
        trunk: nn.Module,
        arch: str,
        stem: str | None,
        train: ImageSource,
        queries: ImageSource,
        preprocessing: Preprocessing,
        position: Position,
        stop: StopRequest,
        device: torch.device,
        *,
        k: int,
        temperature: float,
        every: int,
        epochs: int,
        precision: str = "float32",
        workers: int | None = None,
    ) -> None:
        for source in (train, queries):
            if (source.labels < 0).all():
                raise DataError(
                    f"{source.spec} has no labels; the online kNN requires labels for both --data and --val."
                )
        if train.class_names != queries.class_names:
            raise DataError(
                f"{queries.spec} and {train.spec} have different classes; the online kNN requires the same classes. "
                "Omit --val to train without it."
            )
        self._trunk, self._arch, self._stem = trunk, arch, stem
        self._sources, self._preprocessing = (train, queries), preprocessing
        self._position, self._stop, self._device = position, stop, device
        self._k, self._temperature, self._every, self._epochs = k, temperature, every, epochs
        self._options = ExtractionOptions(precision=precision, workers=workers)

    def end_epoch(self, summary: dict[str, Any]) -> None:
        epoch = summary["epoch"]
        if epoch + 1 != self._epochs and (epoch + 1) % self._every:
            return
        try:
            accuracy = self.accuracy()
        except Stopped:  # every process stops next
            return
        except (DataError, OSError, RuntimeError) as error:  # a GPU out of memory raises a RuntimeError
            say(f"Warning: no online kNN after epoch {epoch} ({error}); training continues")
            return
        summary["knn_top1"] = accuracy
        best = " (best so far)" if accuracy > self._position.best_knn else ""
        say(f"epoch {epoch}: kNN {100 * accuracy:.2f} %{best}")

    @torch.no_grad()
    def accuracy(self) -> float:
        """kNN accuracy of the trunk's pooled features of one center crop, in [0, 1].

        Raises:
            Stopped: a stop was requested meanwhile.
        """
        encoder = encoder_in_training(self._trunk, self._arch, self._stem)
        (train, train_labels), (queries, labels) = (self._features(encoder, source) for source in self._sources)
        correct = 0
        for block, similarities, rows in search_blocks(train, queries, self._k, device=self._device):
            self._raise_if_stopped()
            predicted = weighted_vote(similarities, train_labels[rows], self._temperature, top=1)[:, 0]
            correct += int((predicted == labels[block]).sum())
        return correct / len(queries)

    def _features(self, encoder: Encoder, source: ImageSource) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(N,D) features and (N,) labels of the labeled images that can be read."""
        extraction = Extraction(encoder, source, self._preprocessing, self._options, self._device)
        table = extract_to_memory(extraction, after_block=lambda block: self._raise_if_stopped())
        labeled = np.flatnonzero(table.labels >= 0)
        if not len(labeled):
            raise DataError(f"{source.spec} has no readable labeled image")
        return table.features[labeled], table.labels[labeled]

    def _raise_if_stopped(self) -> None:
        if self._stop.status:
            raise Stopped("Stopped during the online kNN.", self._stop.status)
