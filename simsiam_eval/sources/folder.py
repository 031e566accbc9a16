"""`folder:` class sub-folders of images, or a flat folder without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.splits import NO_SPLIT, choose_folder, choose_split, folder_layout

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
ARRAYS = (".npy",)  # of a folder without any other image


def open_folder(path: Path, spec: str, options: Mapping[str, str], default_split: str | None = None) -> PathSource:
    """Rows sorted by relative path; id = that path with forward slashes; label = index of the class among the sorted.

    Hidden files and folders are ignored, and .npy files in a folder that has any other image.

    Args:
        options: split: which of several split folders; "none": every sub-folder is a class.
        default_split: train or test, used where there are split folders and the options name none.

    Raises:
        DataError: no images, a class without images, images next to class folders, a split that must be chosen or does
            not exist, folders that can be splits or classes.
    """
    endings = EXTENSIONS if _has_any(path, EXTENSIONS) or not _has_any(path, ARRAYS) else ARRAYS
    return _open(path, spec, options.get("split"), default_split, endings)


def _open(path: Path, spec: str, split: str | None, default_split: str | None, endings: tuple[str, ...]) -> PathSource:
    folders, images = _entries(path, endings)
    if not folders:
        choose_split((), split, default_split, spec)
        if not images:
            raise DataError(f"{path} has no images ({', '.join(EXTENSIONS)}; {ARRAYS[0]} with --channels).")
        return PathSource(sorted(images), spec=spec, folder=path)
    if images:
        raise DataError(f"{path} has both images and sub-folders; expected class folders, or images alone.")
    folders.sort()
    chosen = choose_folder(
        folders, lambda name: frozenset(_entries(path / name, endings)[0]), split, default_split, spec
    )
    if chosen is None:
        return _class_folders(path, folders, spec, endings)
    return _split_folder(path / chosen, spec, endings)


def _split_folder(path: Path, spec: str, endings: tuple[str, ...]) -> PathSource:
    folders, images = _entries(path, endings)
    while not images and [name.lower() for name in folders] == [path.name.lower()]:
        path = path / folders[0]  # train/train, as some archives unpack
        folders, images = _entries(path, endings)
    layout = folder_layout(sorted(folders), lambda name: frozenset(_entries(path / name, endings)[0]))
    if layout.splits and not layout.unclear:
        raise DataError(f"{path} has splits ({', '.join(layout.splits)}); use folder:{path}#{layout.splits[0]}.")
    return _open(path, spec, NO_SPLIT, None, endings)


def _class_folders(path: Path, classes: list[str], spec: str, endings: tuple[str, ...]) -> PathSource:
    names = PackedTexts()
    counts = []
    for folder in classes:
        images = sorted(_images_below(path / folder, f"{folder}/", endings))
        if not images:
            raise DataError(f"The class folder {path / folder} has no images; add some or remove the folder.")
        names.extend(images)
        counts.append(len(images))
    return PathSource(names, np.repeat(np.arange(len(classes)), counts), classes, spec=spec, folder=path)


def is_image(name: str, endings: tuple[str, ...] = EXTENSIONS) -> bool:
    """Whether a file name (without its path) is that of an image."""
    return name.lower().endswith(endings) and not name.startswith(".")


def _has_any(path: Path, endings: tuple[str, ...], linked: int = 2) -> bool:
    """Whether there is an image at any depth; stops at the first. Of links, those to splits and classes are followed."""
    folders = []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_image(entry.name, endings) and not _is_folder(entry):
                return True
            if not entry.name.startswith(".") and _is_folder(entry) and (linked or not entry.is_symlink()):
                folders.append(entry.path)
    return any(_has_any(Path(folder), endings, max(linked - 1, 0)) for folder in folders)


def _entries(path: Path, endings: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Names of the sub-folders, and of the images."""
    folders, images = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_image(entry.name, endings) and not _is_folder(entry):
                images.append(entry.name)
            elif not entry.name.startswith(".") and _is_folder(entry):
                folders.append(entry.name)
    return folders, images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False for a circular or forbidden link, which is then an unreadable image if it is named like one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _images_below(path: Path, prefix: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Names, after `prefix`, of all images; links to folders could be circular and are not followed."""
    folders, images = _entries(path, endings)
    yield from (prefix + name for name in images)
    for folder in folders:
        if not (path / folder).is_symlink():
            yield from _images_below(path / folder, f"{prefix}{folder}/", endings)
