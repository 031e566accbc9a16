"""Whether two sets of features can be used together, and whether they have the same images."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import class_name, in_numbering_of
from simsiam_eval.features.file import differences
from simsiam_eval.features.provenance import imported_mixture
from simsiam_eval.features.table import Features, ImageTable, Table
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import counted

_BLOCK = 1024  # rows compared at a time


def labeled(table: Table, report: bool = True) -> Table:
    """The rows that have a label; the number of the others is reported.

    Raises:
        DataError: no row has a label.
    """
    kept = table.labels >= 0
    if not kept.any():
        raise DataError(f"{table.name} has no labels.")
    if report and not kept.all():
        say(f"{table.name}: {counted(int((~kept).sum()), 'image')} without a label skipped.")
    return table.subset(kept)


def matched_classes(train: ImageTable, test: Table) -> Table:
    """`test` with the classes numbered as in `train`, both labeled, for every classifier.

    Raises:
        DataError: `train` lacks a class of `test`, or has only one class.
    """
    matched = in_numbering_of(train, test)
    reject_one_class(train)
    return matched


def reject_one_class(train: ImageTable) -> None:
    """Reject a labeled training set, or gallery, with which every classifier is right.

    Raises:
        DataError: all its images have the same class.
    """
    if (train.labels == train.labels[0]).all():
        name = class_name(int(train.labels[0]), train.class_names)
        raise DataError(f"{train.name} has only one class ({name}); there is nothing to classify.")


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
    """Whether both are the same images in the same order, so that each image must be left out of its own neighbors.

    The images are the same if their ids are, and their file, their fingerprint (which depends on labels too) or their
    features.
    """
    if train is test:
        return True
    if not np.array_equal(train.ids, test.ids):
        return False
    if train.path and test.path and train.path.resolve() == test.path.resolve():
        return np.array_equal(train.rows, test.rows)
    fingerprints = [table.attributes["source"].get("fingerprint") for table in (train, test)]
    if fingerprints[0] is not None and fingerprints[0] == fingerprints[1]:
        return True
    return isinstance(train, Features) and isinstance(test, Features) and _same_features(train, test)


def own_rows(train: Features, test: Features) -> NDArray[np.int64] | None:
    """For each test image (M,) the row of the training set that is the same image, -1 for none; None if none has one.

    The images are the same if their ids are, and their features. Where the rows are the same too, `same_rows` says so.
    """
    wanted = set(test.ids.tolist())
    row_of: dict[str, int] = {}
    for start in range(0, len(train), _BLOCK):
        for row, name in enumerate(train.ids[start : start + _BLOCK].tolist(), start=start):
            if name in wanted:
                row_of.setdefault(name, row)
    if not row_of or train.width != test.width:
        return None
    own = np.array([row_of.get(name, -1) for name in test.ids.tolist()], dtype=np.int64)
    found = np.flatnonzero(own >= 0)
    for start in range(0, len(found), _BLOCK):
        rows = found[start : start + _BLOCK]
        first, second = np.asarray(train.features[own[rows]]), np.asarray(test.features[rows])
        close = np.isclose(first, second, rtol=1e-4, atol=1e-6 * float(np.abs(first).max())).all(axis=1)
        own[rows[~close]] = -1
    return own if (own >= 0).any() else None


def own_note(own: NDArray[np.int64] | None, tested: str = "test", trained: str = "training") -> list[str]:
    """A sentence on the images that are in both sets; [] if there are none."""
    if own is None:
        return []
    return [
        f"{int((own >= 0).sum()):,} of {len(own):,} {tested} images are also {trained} images (the same ids and features); "
        "each is left out of its own neighbors."
    ]


def _same_features(train: Features, test: Features) -> bool:
    """Whether all features are equal, up to the rounding of another batch."""
    if train.features.shape != test.features.shape:
        return False
    for start in range(0, len(train), _BLOCK):
        first, second = (table.features[start : start + _BLOCK] for table in (train, test))
        if not np.allclose(first, second, rtol=1e-4, atol=1e-6 * float(np.abs(first).max())):
            return False
    return True


def described_features(table: ImageTable) -> dict[str, Any]:
    """The description of a feature file in a record's `provenance`."""
    attributes = table.attributes
    return {
        "file": table.file,
        "rows": len(table),
        "unreadable": table.unreadable,
        "source": {key: attributes["source"].get(key) for key in ("spec", "fingerprint")},
        "encoder": attributes["encoder"],
        "assumptions": attributes.get("assumptions"),
        "preprocessing": attributes["preprocessing"],
        "precision": attributes["precision"],
    }
