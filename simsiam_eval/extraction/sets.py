"""Features for a task: read from the feature file it was given, or extracted first into a cache (design, contract 4)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from simsiam_eval.errors import BeingWritten, DataError, UsageError
from simsiam_eval.extraction.settings import FeatureSettings, is_feature_file
from simsiam_eval.features.file import Features, differences, read_features
from simsiam_eval.features.rows import open_features
from simsiam_eval.files.cache import cache_folder, make_cache_folder
from simsiam_eval.images.preprocess import Preprocessing, preprocessing_for
from simsiam_eval.runtime.device import resolve_device
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.opening import open_source

if TYPE_CHECKING:  # what extracts brings torchvision along, whose import takes 2 s: not for feature files
    from simsiam_eval.encoders.checkpoint import CheckpointReport
    from simsiam_eval.extraction.extraction import Extraction
    from simsiam_eval.extraction.settings import EncoderSettings, EvaluationSettings


def plan_extraction(
    checkpoint: Path,
    spec: str,
    split: str | None,
    settings: FeatureSettings,
    device: torch.device,
    rows: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[Extraction, Callable[[], dict[str, Any]]]:
    """The features of an image source by a checkpoint's encoder, not computed yet.

    Args:
        split: which split the spec means when it names none.
        rows: first row and the one after the last; default: all.
        preprocessing: default: that of the settings.

    Returns:
        the work, and the root attributes of its feature file: all that makes it this one and no other. (A function:
        the source's fingerprint reads every image, which one of several processes need do.)

    Raises:
        DataError: the checkpoint or the images cannot be used.
        UsageError: `rows` are not in the source.
    """
    from simsiam_eval.encoders.checkpoint import load_encoder
    from simsiam_eval.extraction.extraction import Extraction

    encoder, report = load_encoder(checkpoint, settings.layer, settings.pool)
    source = open_source(spec, split)
    preprocessing = preprocessing or preprocessing_for(report.stem, report.own, settings)
    some = None if rows is None else range(len(source))[rows[0] : rows[1]]
    if some is not None and not some:
        raise UsageError(f"--rows {rows[0]}:{rows[1]} are not among the {len(source)} rows of {spec}.")  # type: ignore[index]

    work = Extraction(encoder, source, preprocessing, settings, device, some)
    return work, partial(_root_attributes, work, report)


def _root_attributes(work: Extraction, report: CheckpointReport) -> dict[str, Any]:
    from simsiam_eval.extraction.blocks import VIEWS

    settings, source = work.settings, work.source
    described: dict[str, Any] = {
        "spec": source.spec,
        "fingerprint": source.fingerprint() if settings.fingerprint == "content" else source.listing_fingerprint(),
        "class_names": list(source.class_names) if source.class_names is not None else None,
    }
    if len(work.rows) < len(source):
        described |= {"rows": [work.rows.start, work.rows.stop], "rows_of": len(source)}
    return {
        "encoder": {
            "arch": report.arch,
            "stem": report.stem,
            "layer": settings.layer[0],
            "pooling": settings.pool,
            "flip_average": settings.flip_average,
            "normalize": settings.normalize,
            "weights_sha256": report.weights_sha256,
        },
        "preprocessing": work.preprocessing.to_dict(),
        "source": described,
        "views": VIEWS | {"count": settings.views, "seed": settings.seed} if settings.views else None,
        "precision": settings.precision,
        "computation": work.computation,
    }


def settings_like(features: Features, settings: FeatureSettings) -> FeatureSettings:
    """With what, beside the preprocessing, images become features that go with these."""
    made = features.attributes["encoder"]
    given = FeatureSettings(**{field.name: getattr(settings, field.name) for field in fields(FeatureSettings)})
    return replace(
        given,
        layer=(made.get("layer", "pool"),),
        pool=made.get("pooling", "avg"),
        flip_average=bool(made.get("flip_average")),
        normalize=bool(made.get("normalize")),
        precision=features.attributes["precision"],
        views=0,
    )


def preprocessing_of(features: Features) -> Preprocessing:
    """How the images of features were prepared.

    Raises:
        DataError: they do not say.
    """
    try:
        return Preprocessing.from_dict(features.attributes["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{features.path} does not say how its images were prepared: give features of the other images, not images."
        ) from error


def extract_to_cache(
    checkpoint: Path,
    spec: str,
    split: str | None,
    settings: FeatureSettings,
    preprocessing: Preprocessing | None = None,
) -> Path:
    """Extract features to their place in the cache, named by weights, source, preprocessing, layers, precision and dtype.

    Args:
        preprocessing: as plan_extraction.

    Raises:
        DataError: the checkpoint or the images cannot be used.
    """
    from simsiam_eval.extraction.extraction import write_extraction

    device = resolve_device(settings.device)
    work, attributes_of = plan_extraction(checkpoint, spec, split, settings, device, preprocessing=preprocessing)
    attributes = attributes_of()
    # The spec is left out of the key: the same images in another place are the same features.
    source_key = {key: value for key, value in attributes["source"].items() if key != "spec"}
    key_of = {**attributes, "source": source_key, "computation": None}
    key = json.dumps([key_of, settings.dtype, list(work.columns)], sort_keys=True)
    out = cache_folder() / "features" / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".h5")
    where = "from the cache" if out.exists() else "extracting into the cache"
    say(f"features of {spec}: {where}, {out}")
    if not out.exists():
        make_cache_folder(out.parent)
    waited = False
    while True:
        try:
            write_extraction(work, attributes, out, Processes(work.device))
            return out
        except BeingWritten:
            if not waited:
                say(f"features of {spec}: another process is extracting them; waiting for it")
            waited = True
            time.sleep(1)


def train_and_test_features(
    settings: EvaluationSettings,
    columns_of: Callable[[Path, str], Sequence[str]] = lambda path, role: (),
    on_disk: bool = False,
) -> tuple[Features, Features]:
    """The features of a task's two sets, labeled rows only, the test set's labels in the training set's numbering.

    Args:
        columns_of: which further datasets to read of a feature file in the role of `train` or `test`.
        on_disk: they stay there and are read in blocks (FeatureRows), without further datasets.

    Raises:
        UsageError: images without a checkpoint.
        DataError: features of two encoders, preprocessings or precisions; no labels; classes that the other lacks.
    """

    def read(path: Path, role: str) -> Features:
        return open_features(path, settings.layer) if on_disk else read_features(path, columns_of(path, role))

    train = labeled(features_of(settings.train, "train", settings, read), f"--train {settings.train}")
    same = settings.test == settings.train and is_feature_file(settings.test)
    test = train if same else labeled(features_of(settings.test, "test", settings, read), f"--test {settings.test}")
    refuse_mixture(train, test)
    return train, in_numbering_of(train, test)


def features_of(
    spec: str,
    role: str,
    settings: EncoderSettings,
    read: Callable[[Path, str], Features] | None = None,
    option: str | None = None,
    like: Features | None = None,
) -> Features:
    """The features of one set: of a feature file, or extracted from images, whose split is `role` where they have any.

    Args:
        read: how, given the file and the role; default: the layer of the settings, on the disk.
        option: that the set was given by; default: --train or --test.
        like: features that images are prepared as; default: as the settings say.

    Raises:
        UsageError, DataError: as train_and_test_features.
    """
    read = read or (lambda path, role: open_features(path, settings.layer))
    if is_feature_file(spec):
        found = read(Path(spec), role)
        if settings.checkpoint is not None:
            from simsiam_eval.encoders.checkpoint import inspect_checkpoint

            if (
                found.attributes["encoder"].get("weights_sha256")
                != inspect_checkpoint(settings.checkpoint).weights_sha256
            ):
                raise DataError(f"{spec} holds features of another encoder than {settings.checkpoint}.")
    elif settings.checkpoint is None:
        raise UsageError(f"{option or '--' + role} {spec} is not a feature file (.h5): images need --checkpoint too.")
    else:
        # Views are for training; and a test set of other settings would be refused as a mixture.
        chosen: FeatureSettings = settings if role == "train" else replace(settings, views=0)
        preprocessing = None
        if like is not None:
            chosen = settings_like(like, chosen)
            preprocessing = preprocessing_of(like)
        found = read(extract_to_cache(settings.checkpoint, spec, role, chosen, preprocessing), role)
    return found


def labeled(features: Features, name: str) -> Features:
    """Those that have a label.

    Raises:
        DataError: none has; the sentence begins with `name`.
    """
    kept = features.labels >= 0
    if not kept.any():
        raise DataError(f"{name} has no labels.")
    if not kept.all():
        say(f"{name}: {int((~kept).sum())} images without a label are left out.")
    return features.subset(kept)


def refuse_mixture(train: Features, test: Features) -> None:
    """Two feature files are only used together where one encoder made both in one way (design, contract 4).

    Raises:
        DataError: encoder, preprocessing, precision or width differ; the sentence says which.
    """
    differ = differences(
        test.attributes, {key: train.attributes[key] for key in ("encoder", "preprocessing", "precision")}
    )
    if differ:
        raise DataError(
            f"{train.path} and {test.path} do not belong together: they differ in their {', '.join(differ)}."
        )
    if train.features.shape[1] != test.features.shape[1]:
        raise DataError(
            f"{train.path} has {train.features.shape[1]} features a row and {test.path} {test.features.shape[1]}."
        )


def in_numbering_of(train: Features, test: Features, missing_is_error: bool = True) -> Features:
    """`test` with the labels of `train`: class k of two folders is only the same class where both have the same
    sub-folders, names decide, not numbers.

    Raises:
        DataError: a class that `train` has not; unless `missing_is_error` is off: its label is then one that no row of
            `train` has.
    """
    ours, theirs = train.class_names, test.class_names
    labels = test.labels
    if (ours is None) != (theirs is None):
        named, bare = (train, test) if theirs is None else (test, train)
        raise DataError(
            f"{named.path} names its classes and {bare.path} only numbers them: nothing says which is which."
        )
    if ours is not None and theirs is not None and ours != theirs:
        number = {name: place for place, name in enumerate(ours)}
        for one, names in ((train, ours), (test, theirs)):
            if len(set(names)) < len(names):
                raise DataError(f"{one.path} has two classes of one name, and not the numbers of the other set.")
        unknown = sorted({theirs[label] for label in np.unique(labels[labels >= 0])} - set(ours))
        if unknown and missing_is_error:
            raise DataError(
                f"{test.path} has images of a class that {train.path} has not: {unknown[0]} ({len(unknown)} such classes)."
            )
        number |= {name: len(number) + place for place, name in enumerate(unknown)}
        labels = np.where(labels < 0, -1, np.array([number.get(name, -1) for name in theirs], dtype=np.int64)[labels])
    missing = np.setdiff1d(labels, train.labels)
    if len(missing) and missing_is_error:
        name = ours[missing[0]] if ours is not None and missing[0] < len(ours) else str(missing[0])
        raise DataError(f"{train.path} has no image of a class of {test.path}: {name} ({len(missing)} such classes).")
    return replace(test, labels=labels)


def same_rows(train: Features, test: Features) -> bool:
    """Whether bank and queries are the same images, so that each must be left out of its own neighbors."""
    if not np.array_equal(train.ids, test.ids):
        return False
    if train.path.resolve() == test.path.resolve():
        return np.array_equal(train.rows, test.rows)
    ours, theirs = (one.attributes["source"].get("fingerprint") for one in (train, test))
    return ours is not None and ours == theirs


def described_features(features: Features) -> dict[str, Any]:
    """What a record says of a feature file under `provenance`."""
    attributes = features.attributes
    source = {key: attributes["source"].get(key) for key in ("spec", "fingerprint")}
    return {
        "file": str(features.path),
        "rows": len(features.features),
        "unreadable": features.unreadable,
        "source": source,
        "encoder": attributes["encoder"],
        "preprocessing": attributes["preprocessing"],
        "precision": attributes["precision"],
    }
