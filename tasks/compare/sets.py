"""The feature files of `compare`: test sets of the same images, and training sets of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import in_numbering_of
from simsiam_eval.features.compatibility import labeled
from simsiam_eval.features.reader import open_features
from simsiam_eval.features.table import Features
from simsiam_eval.runtime.progress import say


def same_images(files: Sequence[Path]) -> list[Features]:
    """The test sets restricted to the images that all files share, in the order of the first.

    Raises:
        DataError: a file has an id twice, or the files share fewer than two images or label one differently.
    """
    opened = [open_features(path) for path in files]
    for features in opened:
        if len(set(features.ids.tolist())) < len(features.ids):
            raise DataError(f"{features.path} contains duplicate ids; its images cannot be matched.")
    shared = set(opened[0].ids.tolist()).intersection(*(features.ids.tolist() for features in opened[1:]))
    if not shared:
        raise DataError(f"{opened[0].path} and {opened[1].path} have no image in common (by id).")
    if len(shared) < 2:
        raise DataError("compare requires at least two images that are in all files.")
    largest = max(len(features.ids) for features in opened)
    if len(shared) < largest:
        say(f"{largest - len(shared)} images that are not in every file are left out.")
    first = opened[0].subset(np.array([row for row, name in enumerate(opened[0].ids.tolist()) if name in shared]))
    tests = [first, *(_in_order_of(first, features) for features in opened[1:])]
    if not _same_source(tests):
        numbered = [features.name for features in tests if features.attributes["source"].get("row_numbers_as_ids")]
        what = f"row number, since {numbered[0]} was imported without ids" if numbered else "id only"
        say(f"The files are of different sources (fingerprints differ); images are matched by {what}.")
    return tests


def _in_order_of(first: Features, features: Features) -> Features:
    """The images of `first` in `features`, with the labels of `first`."""
    row_of = {name: row for row, name in enumerate(features.ids.tolist())}
    matched = features.subset(np.array([row_of[name] for name in first.ids.tolist()]))
    matched = in_numbering_of(first, matched, missing_is_error=False)
    if not np.array_equal(matched.labels, first.labels):
        row = int(np.flatnonzero(matched.labels != first.labels)[0])
        for unlabeled, other in ((matched, first), (first, matched)):
            if unlabeled.labels[row] < 0:
                raise DataError(f"{unlabeled.path} has no label for {matched.ids[row]}, but {other.path} has one.")
        raise DataError(f"{features.path} and {first.path} disagree on the label of {matched.ids[row]}.")
    return matched


def training_sets(files: Sequence[Path]) -> list[Features]:
    """The labeled images of the training sets.

    Raises:
        DataError: they hold different images, so that a difference would not be the encoder's.
    """
    banks = [labeled(replace(open_features(path), given=f"--train {path}")) for path in files]
    for bank in banks[1:]:  # fingerprints of one source are equal even where its readable images or its rows are not
        if set(bank.ids.tolist()) != set(banks[0].ids.tolist()):
            raise DataError(f"--train {banks[0].path} and {bank.path} do not contain the same images (by id).")
    return banks


def _same_source(sets: list[Features]) -> bool:
    return len({features.attributes["source"].get("fingerprint") for features in sets}) == 1
