"""`folder:` class sub-folders of images, or a flat folder without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.packed_texts import PackedTexts

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SPLITS = {"train", "val", "valid", "validation", "test"}


def open_folder(path: Path, spec: str) -> PathSource:
    """Rows sorted by relative path; id = that path with forward slashes; label = place of the class among the sorted.

    Hidden files and folders are left out.

    Raises:
        DataError: no images, a class without images, images beside class folders, splits instead of classes.
    """
    folders, images = _entries(path)
    if not folders:
        if not images:
            raise DataError(f"{path} holds no images ({', '.join(EXTENSIONS)}).")
        return PathSource(sorted(images), spec=spec, folder=path)
    if images:
        raise DataError(f"{path} holds both images and sub-folders: give a folder of class folders, or one of images.")
    folders.sort()
    if set(folders) <= SPLITS and all(any(entry.is_dir() for entry in (path / name).iterdir()) for name in folders):
        raise DataError(
            f"{path} holds splits ({', '.join(folders)}), not classes: give for example folder:{path / folders[0]}."
        )
    names = PackedTexts()
    counts = []
    for folder in folders:
        found = sorted(_images_below(path / folder, f"{folder}/"))
        if not found:
            raise DataError(f"The class folder {path / folder} holds no images: fill it or take it out.")
        names.extend(found)
        counts.append(len(found))
    return PathSource(names, np.repeat(np.arange(len(folders)), counts), folders, spec=spec, folder=path)


def is_image(name: str) -> bool:
    """Whether a file's name (no path) says that it is an image."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _entries(path: Path) -> tuple[list[str], list[str]]:
    """Names of the sub-folders, and of the images."""
    folders, images = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_image(entry.name) and not _is_folder(entry):
                images.append(entry.name)
            elif not entry.name.startswith(".") and _is_folder(entry):
                folders.append(entry.name)
    return folders, images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads in circles, or to where one may not look, is an image that cannot be read, if its name is one's."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _images_below(path: Path, prefix: str) -> Iterator[str]:
    """Names, from `prefix` on, of all images; links to folders are not followed, which could be circles."""
    folders, images = _entries(path)
    yield from (prefix + name for name in images)
    for folder in folders:
        if not (path / folder).is_symlink():
            yield from _images_below(path / folder, f"{prefix}{folder}/")
