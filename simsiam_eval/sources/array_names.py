"""Which of several named arrays are images, their labels, and splits: one rule for .npz, .npy, HDF5 and IDX files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from simsiam_eval.errors import DataError
from simsiam_eval.sources.splits import choose_split, parted
from simsiam_eval.wording import first_few

# By preference, in any case.
IMAGE_NAMES = ("images", "image", "imgs", "img", "x", "data")
LABEL_NAMES = ("labels", "label", "y", "targets", "target")


class ArrayPair(NamedTuple):
    """The names of an array of images and of its labels; None without labels."""

    images: str
    labels: str | None


def array_pairs(names: Iterable[str]) -> dict[tuple[str, str], ArrayPair]:
    """The arrays of images among named arrays, by (split, further words in the name).

    The split is as the name spells it, "" without one.

    >>> array_pairs(["x_train", "y_train", "mean"])
    {('train', ''): ArrayPair(images='x_train', labels='y_train')}
    """
    found: dict[tuple[str, str], dict[str, tuple[int, str]]] = {}
    for name in names:
        split, rest = parted(name)
        split = split or ""
        words = [word for word in re.split(r"[-_. /]+", rest.lower()) if word]
        known = {"images": IMAGE_NAMES, "labels": LABEL_NAMES}
        roles = [(word, role) for word in words for role, common in known.items() if word in common]
        if not roles:
            continue
        word, role = roles[-1]  # image_labels are labels
        words.remove(word)
        rank = known[role].index(word)
        pair = found.setdefault((split, "-".join(words)), {})
        pair[role] = min(pair.get(role, (rank, name)), (rank, name))
    return {
        key: ArrayPair(pair["images"][1], pair["labels"][1] if "labels" in pair else None)
        for key, pair in found.items()
        if "images" in pair
    }


def chosen_pair(
    names: Iterable[str], options: Mapping[str, str], default_split: str | None, spec: str
) -> ArrayPair | None:
    """The arrays of the images and labels of a split; None if no array is named as images.

    Args:
        options: split: the split in the names, or `none`.
        default_split: train or test, used where the names have splits and the options name none.

    Raises:
        DataError: several arrays of images; a split that must be chosen or does not exist.
    """
    pairs = array_pairs(names)
    if not pairs:
        return None
    if any(split for split, _ in pairs):  # beside them, the others are splits, too: train_images, extra_images
        pairs = {(split, words) if split else (words, ""): pair for (split, words), pair in pairs.items()}
    split = choose_split({split for split, _ in pairs} - {""}, options.get("split"), default_split, spec) or ""
    of_split = {words: pair for (name, words), pair in pairs.items() if name == split}
    if "" in of_split or len(of_split) == 1:
        return of_split.get("") or next(iter(of_split.values()))
    listed = first_few([pair.images for pair in (of_split or pairs).values()], 20)
    raise DataError(f"{spec} has several arrays of images ({listed}); choose one with #images=NAME.")
