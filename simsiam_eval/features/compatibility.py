"""Which feature files may be used together, and whether they are of the same images."""

from __future__ import annotations

from typing import Any

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import Features, differences
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import counted


def labeled(features: Features, name: str) -> Features:
    """The rows that have a label.

    Raises:
        DataError: none has; the sentence begins with `name`.
    """
    kept = features.labels >= 0
    if not kept.any():
        raise DataError(f"{name} has no labels.")
    if not kept.all():
        say(f"{name}: {counted(int((~kept).sum()), 'image')} without a label left out.")
    return features.subset(kept)


def refuse_mixture(train: Features, test: Features) -> None:
    """Two sets of features are used together only if one encoder made both in the same way.

    Raises:
        DataError: encoder, preprocessing, precision or width differ; the sentence says which.
    """
    differing = differences(
        test.attributes, {key: train.attributes[key] for key in ("encoder", "preprocessing", "precision")}
    )
    if differing:
        raise DataError(f"{train.path} and {test.path} cannot be used together: they differ in {', '.join(differing)}.")
    if train.features.shape[1] != test.features.shape[1]:
        raise DataError(
            f"{train.path} has {train.features.shape[1]} features per row and {test.path} {test.features.shape[1]}."
        )


def same_rows(train: Features, test: Features) -> bool:
    """Whether both are the same images, so that each image must be left out of its own neighbors."""
    if not np.array_equal(train.ids, test.ids):
        return False
    if train.path.resolve() == test.path.resolve():
        return np.array_equal(train.rows, test.rows)
    fingerprints = [features.attributes["source"].get("fingerprint") for features in (train, test)]
    return fingerprints[0] is not None and fingerprints[0] == fingerprints[1]


def described_features(features: Features) -> dict[str, Any]:
    """What a record says of a feature file under `provenance`."""
    attributes = features.attributes
    return {
        "file": str(features.path),
        "rows": len(features.features),
        "unreadable": features.unreadable,
        "source": {key: attributes["source"].get(key) for key in ("spec", "fingerprint")},
        "encoder": attributes["encoder"],
        "preprocessing": attributes["preprocessing"],
        "precision": attributes["precision"],
    }
