"""The encoders of a report: the feature files of each, which one is the training set, and what they predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.features.class_names import class_name, in_numbering_of
from simsiam_eval.features.compatibility import labeled, own_rows, reject_mixture, same_rows
from simsiam_eval.features.file import read_attributes
from simsiam_eval.features.provenance import encoder_name, is_imported
from simsiam_eval.features.reader import open_features
from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.table import Features
from simsiam_eval.linear.applied import difference_to, predict_by_head
from simsiam_eval.linear.head_file import SavedHead, read_head
from simsiam_eval.metrics.confusion import Confusion
from simsiam_eval.neighbors.predictions import Predictions, VotingLabels
from simsiam_eval.sources.spec import without_options
from simsiam_eval.sources.splits import split_of, split_word
from tasks.report.neighbors import SHOWN, ImageNeighbors


@dataclass(frozen=True)
class EncoderFiles:
    """The feature files of one encoder. `train` is None where there is only one set of images."""

    test: Path
    train: Path | None


def files_by_encoder(paths: Sequence[Path], train: Path | None, test: Path | None) -> list[EncoderFiles]:
    """The feature files, by encoder, in the order of their first file; --train and --test first.

    Raises:
        DataError: a file cannot be read, or it is unclear which of an encoder's files is the training set.
    """
    found = [] if test is None else [EncoderFiles(test, train)]
    groups: dict[str, list[Path]] = {}
    for path in paths:
        if path not in (train, test):
            attributes = read_attributes(path)
            groups.setdefault(repr((attributes["encoder"], attributes.get("preprocessing"))), []).append(path)
    return found + [_with_roles(group) for group in groups.values()]


def _with_roles(files: list[Path]) -> EncoderFiles:
    if len(files) == 1:
        return EncoderFiles(files[0], None)
    splits = {path: _split(path) for path in files}
    tests = [path for path in files if splits[path] == "test"] or [path for path in files if splits[path] == "val"]
    trains = [path for path in files if splits[path] == "train"]
    if len(tests) == 1 and len(trains) == 1:
        return EncoderFiles(tests[0], trains[0])
    raise DataError(
        f"{' and '.join(map(str, files[:3]))} are of one encoder, and neither their image sources nor their names say "
        "which is the training set and which the test set: name them with --train and --test."
    )


def _split(path: Path) -> str | None:
    """The split that the image source of a feature file names, or else the file's own name."""
    spec = str(read_attributes(path)["source"].get("spec") or "")
    body = without_options(spec)
    chosen = [split_of(word.removeprefix("split=")) for word in spec[len(body) + 1 :].split(",")]
    return next(filter(None, chosen), None) or split_of(split_word(body) or split_word(path.stem) or "")


@dataclass(frozen=True)
class Evaluated:
    """An encoder with its images: those of the test set, then the labeled ones of the training set.

    Attributes:
        name: of the encoder, for people.
        test: all readable test images, with the classes numbered as in the training set.
        train: labeled training images; None: the test images are each other's neighbors, leave-one-out.
        predictions: of all images, by the votes of the training images (the test images without them), each without
            itself; neighbors are numbers of images, -1 where there are fewer.
        neighbors: of all images.
        own: (M,) which training image a test image is itself, -1 for none; None if there are none.
        head: file of the head that predicts the test images instead; None if none was given.
        guesses, confidence: (M,) of the test images, by the head or else the neighbors; -1 and 0 without classes.
    """

    name: str
    test: Features
    train: Features | None
    predictions: Predictions
    neighbors: ImageNeighbors
    own: NDArray[np.int64] | None
    head: Path | None
    guesses: NDArray[np.int64]
    confidence: NDArray[np.float32]

    @property
    def attributes(self) -> dict[str, Any]:
        return self.test.attributes

    @property
    def bank(self) -> Features:
        """The images whose neighbors vote."""
        return self.train or labeled(self.test, report=False)

    @property
    def count(self) -> int:
        return len(self.test) + (len(self.train) if self.train else 0)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) of all images, -1 for none."""
        return np.concatenate([self.test.labels, *([self.train.labels] if self.train else [])])

    @cached_property
    def ids(self) -> list[str]:
        return self.test.ids.tolist() + (self.train.ids.tolist() if self.train else [])

    @cached_property
    def class_names(self) -> list[str]:
        """The name of every label that occurs, as a label or as a prediction."""
        names = self.test.class_names
        count = max(int(self.labels.max(initial=-1)), int(self.guesses.max(initial=-1))) + 1
        return [class_name(label, names) for label in range(max(count, len(names or ())))]

    @property
    def labeled_rows(self) -> NDArray[np.int64]:
        """Numbers of the test images with a label."""
        return np.flatnonzero(self.test.labels >= 0)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(L,) of the labeled test images."""
        rows = self.labeled_rows
        return self.guesses[rows] == self.test.labels[rows]

    @property
    def correct_by_neighbors(self) -> NDArray[np.bool_]:
        """(L,) of the labeled test images, by the votes also where there is a head."""
        rows = self.labeled_rows
        return self.predictions.labels[rows] == self.test.labels[rows]

    @property
    def has_classes(self) -> bool:
        """Whether there are predictions to judge: labeled test images, and at least two classes that vote."""
        return len(self.labeled_rows) > 0 and len(np.unique(self.bank.labels)) > 1

    def confusion(self) -> Confusion:
        """Of the labeled test images; an image without a prediction is left out."""
        rows = self.labeled_rows
        rows = rows[self.guesses[rows] >= 0]
        return Confusion(self.test.labels[rows], self.guesses[rows], self.class_names)

    def features(self) -> FeatureMatrix:
        """(N,D) of all images."""
        return self.neighbors.features


def evaluate(
    files: EncoderFiles,
    heads: Sequence[Path],
    k: int,
    temperature: float,
    device: torch.device,
    deep_k: int = 0,
    deep_images: int = 0,
) -> Evaluated:
    """Predict every image of an encoder's feature files.

    Args:
        k, temperature: of the votes.
        deep_k, deep_images: find this many neighbors of a sample of so many labeled test images, in the same search.

    Raises:
        DataError: a file cannot be used, or the two are of different encoders.
    """
    test = open_features(files.test)
    train = None
    if files.train is not None:
        train = open_features(files.train)
        reject_mixture(train, test)
        if same_rows(train, test):
            raise DataError(f"{files.train} contains the same images as {files.test}; leave it out for leave-one-out.")
        train = labeled(train)
        test = in_numbering_of(train, test, missing_is_error=False)
    own = None if train is None else own_rows(train, test)
    neighbors = _neighbors(test, train, own, k, device, deep_k, deep_images)
    predictions = _predictions(neighbors, np.concatenate([table.labels for table in (test, train) if table is not None]),
                               k, temperature)  # fmt: skip
    guesses, confidence = predictions.labels[: len(test)], predictions.confidence[: len(test)]
    head = _head_of(test, heads)
    name = name_of_encoder(test.attributes)
    evaluated = Evaluated(name, test, train, predictions, neighbors, own, head and head[0], guesses, confidence)
    if head is not None:
        guesses, confidence = _head_predictions(*head, test, evaluated.class_names)
        evaluated = replace(evaluated, guesses=guesses, confidence=confidence)
    return evaluated


def name_of_encoder(attributes: Mapping[str, Any]) -> str:
    """Such as "resnet18 (cifar stem), e8c3c346"."""
    if is_imported(attributes):
        return encoder_name(attributes)
    encoder = attributes["encoder"]
    name = str(encoder.get("arch") or "unknown encoder")
    name += f" ({encoder['stem']} stem)" if encoder.get("stem") else ""
    name += f", layer {encoder['layer']}" if encoder.get("layer", "pool") != "pool" else ""
    return name + (f", {encoder['weights_sha256'][:8]}" if encoder.get("weights_sha256") else "")


def _neighbors(
    test: Features,
    train: Features | None,
    own: NDArray[np.int64] | None,
    k: int,
    device: torch.device,
    deep_k: int,
    deep_images: int,
) -> ImageNeighbors:
    """Of the test images and then the training images, which vote."""
    same = np.full(len(test) + (len(train) if train else 0), -1)
    with_label = np.flatnonzero(test.labels >= 0)
    if train is None:
        features, labeled_images = test.features, test.labels >= 0
        # As in `knn`, images without a label are nobody's neighbors.
        voters = with_label if len(with_label) else np.arange(len(test))
    else:
        features = np.concatenate([test.features[:], train.features[:]])
        labeled_images = np.concatenate([test.labels >= 0, np.full(len(train), True)])
        voters = np.arange(len(train)) + len(test)
        if own is not None:
            same[: len(test)] = np.where(own < 0, -1, own + len(test))
    deep_rows = sampled(with_label, deep_images)
    return ImageNeighbors(features, voters, labeled_images, same, k, device, deep_rows, max(deep_k, k))


def sampled(rows: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """At most `limit` of the rows, in order."""
    return rows if len(rows) <= limit else np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))


def _predictions(neighbors: ImageNeighbors, labels: NDArray[np.int64], k: int, temperature: float) -> Predictions:
    found = neighbors.voting
    guesses, confidence = VotingLabels(labels, k, temperature).predicted(found.similarities, found.numbers)
    return Predictions(guesses, confidence, found.numbers[:, :SHOWN], found.similarities[:, :SHOWN])


def _head_of(test: Features, heads: Sequence[Path]) -> tuple[Path, SavedHead] | None:
    """The file of the head, and the head, that was trained on these features.

    Raises:
        UsageError: there are several.
    """
    found = {path: saved for path in heads if difference_to(saved := read_head(path), test) is None}
    if len(found) > 1:
        raise UsageError(
            f"{' and '.join(map(str, found))} were trained on the same features: give the head to show, not both."
        )
    return next(iter(found.items()), None)


def _head_predictions(
    path: Path, saved: SavedHead, test: Features, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Class numbers and probabilities of the test images, with the classes matched by name."""
    number = {name: label for label, name in enumerate(class_names)}
    labels = np.array([number.get(name, -1) for name in saved.class_names])
    guesses, confidence = predict_by_head(saved, path, test, np.arange(len(test)))
    return labels[guesses], confidence
