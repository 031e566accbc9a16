"""Online kNN: the encoder's accuracy during pretraining (InstDisc, Wu et al. 2018)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pretrain.callback import Callback, Position
from simsiam_eval.encoders.backbones.loading import encoder_in_training
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.extraction.extraction import Extraction, extract_to_memory
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.features.compatibility import labeled, matched_classes, own_note, own_rows, same_rows
from simsiam_eval.features.table import Features, ImageTable
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.neighbors.classify import classify, report_few_neighbors
from simsiam_eval.runtime.notes import say_once
from simsiam_eval.runtime.progress import say
from simsiam_eval.runtime.signals import StopRequest
from simsiam_eval.sources.base import ImageSource

_OPTIONS = ("--data", "--val")


class KnnMonitor(Callback):
    """Adds the kNN accuracy on `queries`, with the pretraining images as training features, to the summaries of epochs.

    If it fails, or the run is to stop meanwhile, the summary has none.

    Args:
        trunk: the encoder that is being trained.
        arch, stem: of the trunk; None for the stem of a network of timm.
        train, queries: labeled images; classes are matched by name, as by `knn`.
        k, temperature: of the weighted vote.
        every, epochs: it runs after every `every`-th epoch, and after the last.
        precision, workers: of the extraction.

    Raises:
        DataError: one of the two has no labels, or `train` has only one class or lacks one of `queries`.
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
        # What `knn` would reject after the first epochs is rejected now.
        tables = [
            labeled(ImageTable.of_source(source, f"{option} {source.spec}"))
            for option, source in zip(_OPTIONS, (train, queries), strict=True)
        ]
        matched_classes(*tables)
        report_few_neighbors([k], len(tables[0]))
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
        bank, queries = (
            labeled(self._features(encoder, option, source), report=False)
            for option, source in zip(_OPTIONS, self._sources, strict=True)
        )
        queries = matched_classes(bank, queries)
        same = same_rows(bank, queries)
        own = None if same else own_rows(bank, queries)
        for note in own_note(own, "--val", "--data"):
            say_once(note)
        predicted = classify(
            bank.features,
            bank.labels,
            None if same else queries.features,
            [self._k],
            [self._temperature],
            device=self._device,
            top=1,
            own=own,
            after_block=self._raise_if_stopped,
        )
        return float((predicted.ranked[self._k, self._temperature][:, 0] == queries.labels).mean())

    def _features(self, encoder: Encoder, option: str, source: ImageSource) -> Features:
        """The features of the images that can be read."""
        extraction = Extraction(encoder, source, self._preprocessing, self._options, self._device)
        table = extract_to_memory(extraction, after_block=lambda block: self._raise_if_stopped())
        return replace(table, given=f"{option} {source.spec}")

    def _raise_if_stopped(self) -> None:
        if self._stop.status:
            raise Stopped("Stopped during the online kNN.", self._stop.status)
