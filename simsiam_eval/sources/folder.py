"""`folder:` class sub-folders of images, or a flat folder without labels."""

from __future__ import annotations

import os
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SPLITS = {"train", "val", "valid", "validation", "test"}


def open_folder(path: Path, spec: str) -> PathSource:
    """Rows sorted by relative path; id = that path with forward slashes; label = place of the class among the sorted.

    Raises:
        DataError: no images, a class without images, images beside class folders, splits instead of classes.
    """
    entries = sorted(path.iterdir())
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    images = [entry for entry in entries if _is_image(entry.name)]
    if not folders:
        if not images:
            raise DataError(f"{path} holds no images ({', '.join(EXTENSIONS)}).")
        return PathSource(images, ids=[image.name for image in images], spec=spec)
    if images:
        raise DataError(f"{path} holds both images and sub-folders: give a folder of class folders, or one of images.")
    names = [folder.name for folder in folders]
    if set(names) <= SPLITS and all(any(entry.is_dir() for entry in folder.iterdir()) for folder in folders):
        raise DataError(f"{path} holds splits ({', '.join(names)}), not classes: give for example folder:{folders[0]}.")
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(
            os.path.join(where, name) for where, _, files in os.walk(folder) for name in files if _is_image(name)
        )
        if not found:
            raise DataError(f"The class folder {folder} holds no images: fill it or take it out.")
        paths += found
        labels += [label] * len(found)
    ids = [Path(image).relative_to(path).as_posix() for image in paths]
    return PathSource(paths, labels, names, ids, spec)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
