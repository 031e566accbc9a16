"""Whether two sets of features can be used together, and whether they have the same images."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import differences
from simsiam_eval.features.provenance import imported_mixture
from simsiam_eval.features.table import ImageTable, Table
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import counted


def labeled(table: Table, name: str) -> Table:
    """The rows that have a label.

    Raises:
        DataError: no row has a label; the message begins with `name`.
    """
    reject_unlabeled(table.labels, name)
    kept = table.labels >= 0
    if not kept.all():
        say(f"{name}: {counted(int((~kept).sum()), 'image')} without a label skipped.")
    return table.subset(kept)


def reject_unlabeled(labels: NDArray[np.int64], name: str) -> None:
    """Raise DataError, which begins with `name`, if no row has a label."""
    if not (labels >= 0).any():
        raise DataError(f"{name} has no labels.")


class Extracted(Protocol):
    """Features of one encoder, extracted or still to be extracted; attributes as of `ImageTable`."""

    @property
    def name(self) -> str: ...

    @property
    def attributes(self) -> dict[str, Any]: ...

    @property
    def width(self) -> int: ...


def reject_mixture(train: Extracted, test: Extracted) -> None:
    """Reject two sets of features that were not extracted by the same encoder in the same way.

    Raises:
        DataError: encoder, preprocessing, precision or width differ.
    """
    if why := imported_mixture(train.attributes, train.name, test.attributes, test.name):
        raise DataError(why)
    differing = differences(
        test.attributes, {key: train.attributes[key] for key in ("encoder", "preprocessing", "precision")}
    )
    if differing:
        hint = _intensity_hint(train) if differing == ["preprocessing.intensity"] else ""
        raise DataError(
            f"{train.name} and {test.name} cannot be used together: they differ in {', '.join(differing)}{hint}."
        )
    if train.width != test.width:
        raise DataError(f"{train.name} has {train.width} features per row and {test.name} {test.width}.")


def _intensity_hint(train: Extracted) -> str:
    """How to extract the test set with the gray levels of the training set."""
    option = Intensity.from_json(train.attributes["preprocessing"].get("intensity")).option()
    return f"; extract both with the same scale, --intensity {option or 'LOW:HIGH'}"


def same_rows(train: ImageTable, test: ImageTable) -> bool:
    """Whether both are the same images, so that each image must be left out of its own neighbors."""
    if not np.array_equal(train.ids, test.ids):
        return False
    if train.path and test.path and train.path.resolve() == test.path.resolve():
        return np.array_equal(train.rows, test.rows)
    fingerprints = [table.attributes["source"].get("fingerprint") for table in (train, test)]
    return fingerprints[0] is not None and fingerprints[0] == fingerprints[1]


def described_features(table: ImageTable) -> dict[str, Any]:
    """The description of a feature file in a record's `provenance`."""
    attributes = table.attributes
    return {
        "file": table.name,
        "rows": len(table),
        "unreadable": table.unreadable,
        "source": {key: attributes["source"].get(key) for key in ("spec", "fingerprint")},
        "encoder": attributes["encoder"],
        "assumptions": attributes.get("assumptions"),
        "preprocessing": attributes["preprocessing"],
        "precision": attributes["precision"],
    }
