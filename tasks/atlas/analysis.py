"""What is known of each image of a set: coordinates, neighbors, votes and suspects.

Memory grows by a few hundred bytes per image, besides an index; features are read in blocks, and neighbors wait in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import class_name, in_numbering_of
from simsiam_eval.features.compatibility import labeled, own_rows, reject_mixture, reject_one_class, same_rows
from simsiam_eval.features.reader import open_features
from simsiam_eval.neighbors.approximate import NeighborIndex, cached_index
from simsiam_eval.neighbors.classify import report_few_neighbors
from simsiam_eval.neighbors.coordinates import Coordinates, coordinates
from simsiam_eval.neighbors.predictions import VotingLabels, predict_by_neighbors
from simsiam_eval.neighbors.suspects import Block, LabelSuspects, NeighborSuspects, label_suspects, neighbor_suspects
from simsiam_eval.runtime.progress import progress, say
from tasks.atlas.neighbors_file import NeighborsFile
from tasks.atlas.settings import AnalysisSettings

if TYPE_CHECKING:
    import torch

    from simsiam_eval.features.table import Features

_EXACT_ROWS = 200_000  # from which on an index is recommended
LIKELY_WRONG, CONFLICT, DUPLICATE = "likely wrong label", "near-duplicate with another label", "near-duplicate"


@dataclass(frozen=True)
class Votes:
    """Of N images; see `Predictions`."""

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class NearestTraining:
    """The nearest training image of N images.

    Attributes:
        train: the training set.
        rows: (N,) int64 of `train`, -1 for none. similarity: (N,) float32.
    """

    train: Features
    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]


@dataclass(frozen=True)
class Analysis:
    """What is known of N images.

    Attributes:
        features: the readable images; with a training set numbered as its classes.
        map: coordinates.
        near: outliers and near-duplicates.
        labels: how well labels fit; None without two labeled classes.
        group: (N,) int32 number of the group of near-duplicates, -1 for none.
        votes: None where nobody votes.
        leaks: None without a training set.
        neighbors: of each image.
        index: approximate index in effect; None for exact search.
    """

    features: Features
    map: Coordinates
    near: NeighborSuspects
    labels: LabelSuspects | None
    group: NDArray[np.int32]
    votes: Votes | None
    leaks: NearestTraining | None
    neighbors: NeighborsFile
    index: dict[str, Any] | None

    def __len__(self) -> int:
        return len(self.features)

    def name(self, label: int) -> str | None:
        """Name of a class; None for no label."""
        return class_name(int(label), self.features.class_names) or None

    def suspect(self, row: int) -> str | None:
        """Why an image is suspicious, in a word; None if it is not."""
        if self.labels is not None and self.labels.margin[row] < 0:
            return LIKELY_WRONG
        if self.near.conflict[row] >= 0:
            return CONFLICT
        return DUPLICATE if self.group[row] >= 0 else None

    def counts(self) -> dict[str, int | None]:
        """Numbers of images for the record."""
        labels, votes = self.features.labels, self.votes
        judged = np.zeros(len(self), bool) if votes is None else (labels >= 0) & (votes.labels >= 0)
        correct = 0 if votes is None else int((votes.labels[judged] == labels[judged]).sum())
        return {
            "images": len(self),
            "unreadable": self.features.unreadable,
            "unlabeled": int((labels < 0).sum()),
            "correct": None if votes is None else correct,
            "wrong": None if votes is None else int(judged.sum()) - correct,
            "wrong_labels": None if self.labels is None else self.labels.count,
            "duplicate_groups": len(self.near.groups),
            "conflicts": int((self.near.conflict >= 0).sum()),
        }


@contextmanager
def analyzed(file: Path, settings: AnalysisSettings, folder: Path, device: torch.device) -> Iterator[Analysis]:
    """Analyze the images of a feature file.

    Args:
        folder: for the file of neighbors, which is removed at the end of the block.

    Raises:
        DataError: a file cannot be used, the two are of different encoders, or there is only one image.
        UsageError: umap-learn or the index cannot be used.
    """
    features = open_features(file)
    if len(features) < 2:
        raise DataError(f"{features.name} contains only one readable image; at least two are needed.")
    train = None if settings.train is None else _training_set(settings.train, features)
    if train is not None:
        features = _numbered_as(train, features)
    if settings.index is None and len(features) > _EXACT_ROWS:
        say(
            f"{features.name} has {len(features):,} images: exact search compares every pair. --index, such as "
            "IVF4096,Flat, is faster."
        )
    say(f"{features.name}: coordinates of {len(features):,} images")
    placed = coordinates(features.features, settings.map, seed=settings.seed, sample=settings.map_sample, device=device)
    with NeighborsFile(folder, len(features), settings.outlier_k) as neighbors:
        yield _Search(settings, features, train, device).analysis(placed, neighbors)


def _training_set(path: Path, features: Features) -> Features:
    """The labeled images of --train. Raises DataError if they cannot vote on these images."""
    train = open_features(path)
    reject_mixture(train, features)
    if same_rows(train, features):
        raise DataError(f"--train {path} contains the same images as {features.name}; leave it out for leave-one-out.")
    train = labeled(train)
    reject_one_class(train)
    return train


def _numbered_as(train: Features, features: Features) -> Features:
    """The features with the class numbers of the training set; without labels, with its class names."""
    if (features.labels >= 0).any():
        return in_numbering_of(train, features, missing_is_error=False)
    source = features.attributes["source"] | {"class_names": train.attributes["source"].get("class_names")}
    return replace(features, attributes=features.attributes | {"source": source})


class _Search:
    """The searches for neighbors of one analysis."""

    def __init__(
        self, settings: AnalysisSettings, features: Features, train: Features | None, device: torch.device
    ) -> None:
        self._settings, self._features, self._train, self._device = settings, features, train, device
        labels = features.labels
        self._labeled = labels >= 0
        self._judged = len(np.unique(labels[self._labeled])) > 1
        if not self._judged:
            why = "labels of only one class" if self._labeled.any() else "no labels"
            say(f"{features.name} has {why}: likely wrong labels are not looked for.")
        voters = int(self._labeled.sum()) - 1 if train is None else len(train)
        report_few_neighbors([settings.k] if self._judged or train is not None else [], voters)

    def analysis(self, placed: Coordinates, neighbors: NeighborsFile) -> Analysis:
        settings, features, labels = self._settings, self._features, self._features.labels
        index = self._index(features)
        described = None
        if index is not None:
            k = max(settings.k, settings.outlier_k) + 1
            described = {
                "index": settings.index,
                "parameters": index.set_parameters(settings.index_parameters, k),
            }
        all_vote = self._judged and bool(self._labeled.all())
        own_votes = VotingLabels(labels, settings.k, settings.temperature) if all_vote and not self._train else None
        voted, confidence = np.full(len(features), -1, np.int64), np.zeros(len(features), np.float32)
        with progress("nearest neighbors", len(features)) as advance:

            def after_block(block: Block) -> None:
                which, similarities, rows = block
                neighbors.append(similarities, rows)
                if own_votes is not None:
                    voted[which], confidence[which] = own_votes.predicted(similarities, rows)
                advance(len(rows))

            near = neighbor_suspects(
                features.features,
                labels,
                k=settings.k,
                temperature=settings.temperature,
                outlier_k=settings.outlier_k,
                threshold=settings.threshold,
                judge_labels=all_vote or index is None,
                device=self._device,
                index=index,
                after_block=after_block,
            )
        del index
        judged, votes, leaks = near.labels, None if own_votes is None else Votes(voted, confidence), None
        if self._train is not None:
            votes, leaks = self._by_training_set(self._train)
        if self._judged and not all_vote and (judged is None or votes is None):
            bank = features.subset(np.flatnonzero(self._labeled))
            bank_index = self._searched(bank)
            judged = judged or label_suspects(features.features, labels, index=bank_index, **self._votes_of())
            votes = votes or self._by_labeled(bank, bank_index)
        group = np.full(len(features), -1, np.int32)
        for number, rows in enumerate(near.groups):
            group[rows] = number
        return Analysis(features, placed, near, judged, group, votes, leaks, neighbors, described)

    def _index(self, bank: Features) -> NeighborIndex | None:
        factory = self._settings.index
        return None if factory is None else cached_index(bank.features, factory, "cosine", self._settings.seed)

    def _searched(self, bank: Features) -> NeighborIndex | None:
        """The index over a bank other than all images, with its parameters set."""
        index = self._index(bank)
        if index is not None:
            index.set_parameters(self._settings.index_parameters, self._settings.k + 1)
        return index

    def _votes_of(self) -> dict[str, Any]:
        return {"k": self._settings.k, "temperature": self._settings.temperature, "device": self._device}

    def _by_labeled(self, bank: Features, index: NeighborIndex | None) -> Votes:
        """The votes of the labeled images, the `bank`, on all images."""
        own = np.full(len(self._features), -1, np.int64)
        own[self._labeled] = np.arange(len(bank))
        found = predict_by_neighbors(
            bank.features, bank.labels, self._features.features, kept=0, own=own, index=index, **self._votes_of()
        )
        return Votes(found.labels, found.confidence)

    def _by_training_set(self, train: Features) -> tuple[Votes, NearestTraining]:
        """The votes of the training set, and the most similar image of it."""
        found = predict_by_neighbors(
            train.features,
            train.labels,
            self._features.features,
            kept=1,
            own=own_rows(train, self._features),
            index=self._searched(train),
            **self._votes_of(),
        )
        nearest = NearestTraining(train, found.neighbors[:, 0], found.similarities[:, 0])
        return Votes(found.labels, found.confidence), nearest
