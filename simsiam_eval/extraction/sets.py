"""The training and test features of a task: read from the feature files it was given, or extracted first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.options import ExtractionOptions, options_like, preprocessing_of
from simsiam_eval.extraction.settings import is_feature_file
from simsiam_eval.features.class_names import in_numbering_of
from simsiam_eval.features.compatibility import labeled, reject_mixture
from simsiam_eval.features.reader import open_features, read_features
from simsiam_eval.features.table import Features


def train_and_test_features(
    train: str,
    test: str,
    checkpoint: Path | None,
    options: ExtractionOptions,
    device: torch.device,
    columns_of: Callable[[Path, str], Sequence[str]] = lambda path, role: (),
    on_disk: bool = False,
) -> tuple[Features, Features]:
    """The features of a task's two sets, labeled rows only, the test set's labels in the training set's numbering.

    Args:
        train, test: feature files, or image sources, which need the checkpoint.
        options: how features are extracted from images; of feature files its layers are read.
        device: where they are extracted.
        columns_of: further datasets to read, given a feature file and its role, `train` or `test`.
        on_disk: features stay on the disk and are read in blocks (FeatureRows), without further datasets.

    Raises:
        UsageError: images without a checkpoint.
        DataError: features of two encoders, preprocessings or precisions; no labels; classes that the training set lacks.
    """

    def read(path: Path, role: str) -> Features:
        return open_features(path, options.layers) if on_disk else read_features(path, columns_of(path, role))

    def features(spec: str, role: str) -> Features:
        return labeled(features_of(spec, role, checkpoint, options, device, read), f"--{role} {spec}")

    bank = features(train, "train")
    queries = bank if test == train and is_feature_file(test) else features(test, "test")
    reject_mixture(bank, queries)
    return bank, in_numbering_of(bank, queries)


def features_of(
    spec: str,
    role: str,
    checkpoint: Path | None,
    options: ExtractionOptions,
    device: torch.device,
    read: Callable[[Path, str], Features] | None = None,
    option: str | None = None,
    like: Features | None = None,
) -> Features:
    """The features of one set: of a feature file, or extracted from images, of the split `role` where they have splits.

    Args:
        read: reads a feature file, given the role; default: the first layer of the options, on the disk.
        option: the option that the set was given by; default: --train or --test.
        like: features that images are prepared like; default: as the options say.

    Raises:
        UsageError, DataError: as `train_and_test_features`.
    """
    read = read or (lambda path, role: open_features(path, options.layers))
    if is_feature_file(spec):
        features = read(Path(spec), role)
        if checkpoint is not None:
            from simsiam_eval.encoders.checkpoint import inspect_checkpoint

            if features.attributes["encoder"].get("weights_sha256") != inspect_checkpoint(checkpoint).weights_sha256:
                raise DataError(f"{spec} holds features of another encoder than {checkpoint}.")
        return features
    if checkpoint is None:
        raise UsageError(f"{option or '--' + role} {spec} is not a feature file (.h5); images require --checkpoint.")
    from simsiam_eval.extraction.cache import extract_to_cache

    # Views are for training; and a test set with views would be rejected as a mixture.
    chosen = options if role == "train" else replace(options, views=0)
    if like is None:
        return read(extract_to_cache(checkpoint, spec, role, chosen, device), role)
    chosen, preprocessing = options_like(like.attributes, chosen), preprocessing_of(like.attributes, like.name)
    return read(extract_to_cache(checkpoint, spec, role, chosen, device, preprocessing), role)
