"""The feature files of `compare`: test sets of the same images, and training sets of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import in_numbering_of
from simsiam_eval.features.compatibility import labeled
from simsiam_eval.features.reader import open_features
from simsiam_eval.features.table import Features
from simsiam_eval.runtime.progress import say


def same_images(files: Sequence[Path]) -> list[Features]:
    """The test sets, cut to the images that all have (an unreadable one is missing in some), in the first's order.

    Raises:
        DataError: a file has an id twice, they share fewer than two images or label one differently.
    """
    opened = [open_features(path) for path in files]
    for one in opened:
        if len(set(one.ids.tolist())) < len(one.ids):
            raise DataError(f"{one.path} has an id twice: its images cannot be told apart.")
    shared = set(opened[0].ids.tolist()).intersection(*(one.ids.tolist() for one in opened[1:]))
    if not shared:
        raise DataError(f"{opened[0].path} and {opened[1].path} have no image in common (by id).")
    if len(shared) < 2:
        raise DataError("compare needs two images or more that all files have.")
    most = max(len(one.ids) for one in opened)
    if len(shared) < most:
        say(f"{most - len(shared)} images that not every file has are left out.")
    kept = np.array([row for row, name in enumerate(opened[0].ids.tolist()) if name in shared])
    tests = [opened[0].subset(kept)]
    for one in opened[1:]:
        place = {name: row for row, name in enumerate(one.ids.tolist())}
        found = one.subset(np.array([place[name] for name in tests[0].ids.tolist()]))
        found = in_numbering_of(tests[0], found, missing_is_error=False)
        if not np.array_equal(found.labels, tests[0].labels):
            row = int(np.flatnonzero(found.labels != tests[0].labels)[0])
            for bare, other in ((found, tests[0]), (tests[0], found)):
                if bare.labels[row] < 0:
                    raise DataError(f"{bare.path} has no label of {found.ids[row]}, which {other.path} has.")
            raise DataError(f"{one.path} and {tests[0].path} label {found.ids[row]} differently.")
        tests.append(found)
    if not _one_source(tests):
        say("The files were made from different sources (their fingerprints differ): images are matched by id alone.")
    return tests


def training_sets(files: Sequence[Path]) -> list[Features]:
    """The training sets, labeled images only.

    Raises:
        DataError: they are not of the same images; a difference would be the bank's, not the encoder's.
    """
    banks = [labeled(open_features(path), f"--train {path}") for path in files]
    for one in banks[1:]:  # parts of one source, and what was readable of it, differ
        if set(one.ids.tolist()) != set(banks[0].ids.tolist()):
            raise DataError(f"--train {banks[0].path} and {one.path} are not of the same images (by id).")
    return banks


def _one_source(sets: list[Features]) -> bool:
    return len({one.attributes["source"].get("fingerprint") for one in sets}) == 1
