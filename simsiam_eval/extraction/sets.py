"""The training and test features of a task, read from feature files or extracted from images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from simsiam_eval.encoders.checkpoint import inspect_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.cache import extract_to_cache
from simsiam_eval.extraction.options import ExtractionOptions, choice_like, option_hint, options_like, preprocessing_of
from simsiam_eval.features.class_names import in_numbering_of
from simsiam_eval.features.compatibility import labeled, reject_mixture
from simsiam_eval.features.provenance import is_imported
from simsiam_eval.features.reader import open_features, read_features
from simsiam_eval.features.table import Features
from simsiam_eval.sources.spec import is_feature_file


def train_and_test_features(
    train: str,
    test: str,
    choice: EncoderChoice | None,
    options: ExtractionOptions,
    device: torch.device,
    columns_of: Callable[[Path, str], Sequence[str]] = lambda path, role: (),
    on_disk: bool = False,
) -> tuple[Features, Features]:
    """The labeled features of a training and a test set, with the classes numbered as in the training set.

    Args:
        train, test: feature files, or image sources, which require the choice of an encoder.
        options: how features are extracted from images; of a feature file, `options.layers` are read.
        device: of the extraction.
        columns_of: further datasets to read, from a feature file and its role, `train` or `test`.
        on_disk: whether features stay on disk and are read in blocks (FeatureRows), without further datasets.

    Raises:
        UsageError: images without a checkpoint.
        DataError: the sets differ in encoder, preprocessing or precision; a set has no labels; a class is missing from
            the training set.
    """

    def read(path: Path, role: str) -> Features:
        return open_features(path, options.layers) if on_disk else read_features(path, columns_of(path, role))

    def features(spec: str, role: str) -> Features:
        return labeled(features_of(spec, role, choice, options, device, read), f"--{role} {spec}")

    bank = features(train, "train")
    queries = bank if test == train and is_feature_file(test) else features(test, "test")
    reject_mixture(bank, queries)
    return bank, in_numbering_of(bank, queries)


def features_of(
    spec: str,
    role: str,
    choice: EncoderChoice | None,
    options: ExtractionOptions,
    device: torch.device,
    read: Callable[[Path, str], Features] | None = None,
    option: str | None = None,
    like: Features | None = None,
) -> Features:
    """The features of one set, from a feature file or extracted from images.

    Args:
        spec: feature file or image source.
        role: `train` or `test`; the default split of an image source.
        read: reads a feature file, given its path and role; default: `open_features` with the layers of the options.
        option: name of the option for messages; default: --train or --test.
        like: features whose preprocessing and layer the images get; default: those of the options.

    Raises:
        UsageError, DataError: as `train_and_test_features`.
    """
    read = read or (lambda path, role: open_features(path, options.layers))
    if is_feature_file(spec):
        features = read(Path(spec), role)
        if choice is not None:
            if is_imported(features.attributes):
                raise DataError(
                    f"{spec} was imported, so whether {choice.checkpoint} is its encoder is unknown; give only imported "
                    "features, without --checkpoint."
                )
            report = inspect_checkpoint(choice_like(features.attributes, choice, spec))
            if features.attributes["encoder"].get("weights_sha256") != report.weights_sha256:
                hint = option_hint(features.attributes, choice)
                raise DataError(f"The features in {spec} are from another encoder than {report.path}{hint}.")
        return features
    if choice is None:
        raise UsageError(f"{option or '--' + role} {spec} is not a feature file (.h5); images require --checkpoint.")
    if role != "train":
        options = replace(options, views=0)  # only training uses views
    preprocessing = None
    if like is not None:
        options, preprocessing = options_like(like.attributes, options), preprocessing_of(like.attributes, like.name)
    return read(extract_to_cache(choice, spec, role, options, device, preprocessing), role)
