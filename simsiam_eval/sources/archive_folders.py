"""Class folders and splits in the names of the images of an archive."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.pairs import pair_notes
from simsiam_eval.sources.spec import without_options
from simsiam_eval.sources.splits import (
    NO_SPLIT,
    choose_folder,
    choose_split,
    folder_layout,
    reject_splits_inside,
    split_of,
)
from simsiam_eval.sources.unread import is_ignored, is_ignored_folder


def is_hidden(name: str) -> bool:
    """Whether a file or one of its folders is hidden, or one that a system writes.

    >>> is_hidden(".thumbnails/a.png"), is_hidden("./a.png"), is_hidden("__MACOSX/cat/a.png"), is_hidden("cat/a.png")
    (True, False, True, False)
    """
    *folders, file = name.split("/")
    return is_ignored(file) or any(is_ignored_folder(part) and part not in (".", "..") for part in folders)


def notes_on_pairs(
    names: PackedTexts, classes: list[str] | None, spec: str, split: str | None, first: str
) -> list[str]:
    """As `pair_notes`, of the names (below the class folders) of images in an archive; none with #split=none.

    Args:
        first: the name of the first image in the archive, which ends in `names[0]`.
    """
    if classes is None or len(classes) != 2 or split == NO_SPLIT:
        return []
    below: dict[str, list[str]] = {name: [] for name in classes}
    for name in names:
        folder, _, rest = name.partition("/")
        below[folder].append(rest)
    images = [sorted(below[name]) for name in classes]
    return pair_notes(spec, classes, images, f"{without_options(spec)}#folder={first.removesuffix(names[0])}{{}}")


def class_folders(
    names: PackedTexts, spec: str, folder: str | None, split: str | None, default_split: str | None
) -> tuple[NDArray[np.int64], PackedTexts, NDArray[np.int64], list[str] | None]:
    """The images of one split, labeled by their class folders.

    Args:
        names: the paths of all images in the archive.
        folder: the folder that contains the class folders, or the split folders; default: the one that all share.
        split, default_split: as `choose_split`'s requested and default.

    Returns:
        (M,) the chosen rows, sorted; their M names below the folder of the classes; (M,) labels, -1 for none; the classes,
        or None.

    Raises:
        DataError: no images in `folder`, images next to class folders, or as `choose_folder`.
    """
    top = f"{folder.strip('/')}/" if folder else _shared_folder(names)
    if not any(name.startswith(top) for name in names):
        raise DataError(f"{spec} has no images in the folder {top[:-1]} (the first image is {names[0]}).")
    top = _split_folder(names, top, spec, split, default_split)
    rows = np.array([row for row, name in enumerate(names) if name.startswith(top)], dtype=np.int64)
    chosen = PackedTexts(names[row][len(top) :] for row in rows)
    without_class = sum("/" not in name for name in chosen)
    if without_class == len(chosen):
        return rows, chosen, np.full(len(chosen), -1), None
    if without_class:
        raise DataError(
            f"{spec} has images next to class folders; name the folder of the class folders with #folder=PATH, or "
            "read the images without labels with #label=none."
        )
    classes = sorted({name.partition("/")[0] for name in chosen})
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.fromiter((numbers[name.partition("/")[0]] for name in chosen), np.int64, len(chosen))
    return rows, chosen, labels, classes


def _split_folder(names: PackedTexts, top: str, spec: str, split: str | None, default_split: str | None) -> str:
    """`top`, with the folder of the chosen split if it has splits; ends in a slash."""
    sub_folders = _sub_folders(names, top)
    if "" in sub_folders:
        choose_split((), split, default_split, spec)
        return top
    chosen = choose_folder(sorted(sub_folders), sub_folders.__getitem__, split, default_split, spec)
    if chosen is None:
        for name, inside in sub_folders.items() if split != NO_SPLIT else ():
            reject_splits_inside(name, inside, spec)
        return top
    top = f"{top}{chosen}/"
    sub_folders = _sub_folders(names, top)
    while len(sub_folders) == 1 and chosen.lower() in map(str.lower, sub_folders):
        top = f"{top}{next(iter(sub_folders))}/"  # train/train, as some archives are packed
        sub_folders = _sub_folders(names, top)
    layout = folder_layout(sorted(sub_folders), sub_folders.__getitem__)
    if layout.splits and not layout.unclear:
        raise DataError(f"{spec}: {top[:-1]} has splits ({', '.join(layout.splits)}); choose one with #folder=PATH.")
    return top


def _sub_folders(names: PackedTexts, top: str) -> dict[str, set[str]]:
    """Each folder below `top`, with the names of the folders in it; "" where images lie in `top` itself."""
    folders: dict[str, set[str]] = {}
    for name in names:
        if name.startswith(top):
            first, *others = name[len(top) :].split("/")[:-1] or [""]
            folders.setdefault(first, set()).update(others[:1])
    return folders


def _shared_folder(names: PackedTexts) -> str:
    """The folder that all images share, with a slash at the end; a split's own folder is left for `choose_folder`."""
    shared = names[0].split("/")[:-1]
    for name in names:
        pairs = zip(shared, name.split("/")[:-1], strict=False)
        shared = [part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
        if not shared:
            return ""
    top = "".join(f"{part}/" for part in shared)
    sub_folders = _sub_folders(names, top)
    layout = folder_layout(sorted(sub_folders), sub_folders.__getitem__)
    if layout.splits and not layout.unclear:
        return top
    return "".join(f"{part}/" for part in itertools.takewhile(lambda part: not split_of(part), shared))
