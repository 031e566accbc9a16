"""The sets of features of a task, read from feature files or extracted from images.

Everything that can be known before the extraction is checked before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from simsiam_eval.encoders.checkpoint import inspect_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.cache import extract_to_cache
from simsiam_eval.extraction.options import ExtractionOptions, choice_like, option_hint
from simsiam_eval.extraction.plan import ExtractionPlan, plan_extraction
from simsiam_eval.features.compatibility import labeled, matched_classes, reject_mixture
from simsiam_eval.features.file import read_attributes
from simsiam_eval.features.provenance import is_imported
from simsiam_eval.features.reader import open_features, read_features
from simsiam_eval.features.table import Features, ImageTable
from simsiam_eval.sources.spec import is_feature_file


@dataclass(frozen=True)
class PlannedFeatures:
    """The features of images, before they are extracted into the cache.

    Attributes:
        spec: the image source.
        name: the option and the image source, as the user gave them.
        plan: of the extraction.
        read: reads the feature file.
    """

    spec: str
    name: str
    plan: ExtractionPlan
    read: Callable[[Path], Features]

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes that do not depend on the images."""
        return self.plan.encoder_attributes

    @property
    def width(self) -> int:
        return self.plan.extraction.encoder.width

    def labels(self) -> ImageTable:
        """The images, before it is known which can be read."""
        return ImageTable.of_source(self.plan.extraction.source, self.name)

    def extracted(self) -> Features:
        """The features, from the cache if they are in it. Raises DataError as `extract_to_cache`."""
        features = self.read(extract_to_cache(self.plan, self.spec))
        # The file in the cache may be that of another checkpoint with the same weights.
        attributes = features.attributes | {"assumptions": self.attributes["assumptions"]}
        return replace(features, attributes=attributes, given=self.name)


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
        DataError: the sets differ in encoder, preprocessing or precision; a set has no labels; the training set has
            only one class, or lacks one of the test set.
    """

    def read(path: Path, role: str) -> Features:
        return open_features(path, options.layers) if on_disk else read_features(path, columns_of(path, role))

    def opened(spec: str, role: str, options: ExtractionOptions) -> Features | PlannedFeatures:
        return plan_features(spec, role, choice, options, device, read)

    if is_feature_file(test) and not is_feature_file(train):
        options = options.with_scale_of(read_attributes(Path(test)))
    opened_train = opened_test = opened(train, "train", options)
    if test != train or not is_feature_file(test):
        opened_test = opened(test, "test", options.with_scale_of(opened_train.attributes))
    reject_mixture(opened_train, opened_test)
    matched_classes(labels_of(opened_train), labels_of(opened_test))
    bank = completed(opened_train)
    queries = bank if opened_test is opened_train else completed(opened_test)
    return bank, matched_classes(bank, queries)


def labels_of(features: Features | PlannedFeatures) -> ImageTable:
    """The labeled images of a set that may not be extracted yet. Raises DataError if no image has a label."""
    return labeled(features if isinstance(features, Features) else features.labels(), report=False)


def completed(features: Features | PlannedFeatures) -> Features:
    """The labeled rows, extracted from images where they were planned. Raises DataError as `extract_to_cache`."""
    return labeled(features if isinstance(features, Features) else features.extracted())


def features_of(
    spec: str,
    role: str,
    choice: EncoderChoice | None,
    options: ExtractionOptions,
    device: torch.device,
    option: str | None = None,
) -> Features:
    """The features of one set, from a feature file or extracted from images; arguments as of `plan_features`.

    Raises:
        UsageError, DataError: as `train_and_test_features`.
    """
    planned = plan_features(spec, role, choice, options, device, option=option)
    return planned if isinstance(planned, Features) else planned.extracted()


def plan_features(
    spec: str,
    role: str,
    choice: EncoderChoice | None,
    options: ExtractionOptions,
    device: torch.device,
    read: Callable[[Path, str], Features] | None = None,
    option: str | None = None,
    like: Features | None = None,
) -> Features | PlannedFeatures:
    """The features of a feature file, or the plan of their extraction from images.

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
    given = f"{option or '--' + role} {spec}"
    if is_feature_file(spec):
        features = replace(read(Path(spec), role), given=given)
        if choice is not None:
            _reject_other_encoder(features, choice, spec)
        return features
    if choice is None:
        raise UsageError(f"{given} is not a feature file (.h5); images require --checkpoint.")
    if role != "train":
        options = replace(options, views=0)  # only training uses views
    plan = plan_extraction(choice, spec, role, options, device, like=like)
    return PlannedFeatures(spec, given, plan, lambda path: read(path, role))


def _reject_other_encoder(features: Features, choice: EncoderChoice, spec: str) -> None:
    """Raise DataError if the features are not known to be of this encoder."""
    if is_imported(features.attributes):
        raise DataError(
            f"{spec} was imported, so whether {choice.checkpoint} is its encoder is unknown; give only imported "
            "features, without --checkpoint."
        )
    report = inspect_checkpoint(choice_like(features.attributes, choice, spec))
    if features.attributes["encoder"].get("weights_sha256") != report.weights_sha256:
        hint = option_hint(features.attributes, choice)
        raise DataError(f"The features in {spec} are from another encoder than {report.path}{hint}.")
