"""Two folders with files of the same names: images and their masks rather than two classes."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence

from simsiam_eval.errors import DataError
from simsiam_eval.sources.spec import without_options

_IMAGES = re.compile(
    r"((input|rgb|raw|original|source|jpe?g)_?)?(image|img|photo|picture|frame)s?|inputs?|rgb|originals?", re.IGNORECASE
)
_MASKS = re.compile(
    r".*(mask|annotation|segmentation|ground_?truth|trimap|depth|disparity|saliency|matte)s?(class|object|png)?s?"
    r"|labels?|gts?|targets?|outputs?|segs?|annots?|edges?",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"[-_ ](masks?|gt|labels?|seg|segmentation|annotation|trimap|matte|depth|img|image|rgb)$", re.IGNORECASE
)


def pair_notes(spec: str, classes: Sequence[str], images: Sequence[Sequence[str]], example: str) -> list[str]:
    """Reject two folders of which one holds the masks of the other; a note if two have files of the same names.

    Args:
        classes: names of the folders.
        images: the sorted names of the images of each folder, below it.
        example: the spec that reads the first folder, with {} for its name.

    Raises:
        DataError: their names say so too.
    """
    if len(classes) != 2 or len(images[0]) < 2 or len(images[0]) != len(images[1]) or not _same(*images):
        return []
    first = next((name for name in classes if _IMAGES.fullmatch(name)), None)
    hint = f"for the images alone, give {example.replace('{}', first or classes[0])}"
    if first is not None and any(_MASKS.fullmatch(name) for name in classes if name != first):
        raise DataError(
            f"{without_options(spec)} has the folders {classes[0]} and {classes[1]} with files of the same names, which are "
            f"images and their masks, not classes; {hint}. Add #split=none to read them as classes."
        )
    # Numbered files say nothing: 0.png, 1.png are names of any two classes.
    if first is None and all(_stem(name).strip("0123456789-_. /") == "" for name in images[0]):
        return []
    return [
        f"{classes[0]} and {classes[1]} have files of the same names and are read as two classes; if they are pairs, {hint}"
    ]


def _same(first: Iterable[str], second: Iterable[str]) -> bool:
    return all(_stem(one) == _stem(other) for one, other in itertools.zip_longest(first, second, fillvalue=""))


def _stem(name: str) -> str:
    return _SUFFIX.sub("", os.path.splitext(name)[0])
