"""`folder:` class sub-folders of images, or a flat folder without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.images.formats import ARRAYS, has_image_ending, is_image_file
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.pairs import pair_notes
from simsiam_eval.sources.splits import (
    NO_SPLIT,
    choose_folder,
    choose_split,
    folder_layout,
    reject_splits_inside,
    split_of,
)
from simsiam_eval.sources.unread import ImageNames, is_folder, is_ignored, is_ignored_folder, unread_notes


def open_folder(path: Path, spec: str, options: Mapping[str, str], default_split: str | None = None) -> PathSource:
    """Rows sorted by relative path; id = that path with forward slashes; label = index of the class among the sorted.

    Files are images by their ending or, where it is unknown, by their content; others are counted and said. Hidden files
    and folders are ignored, and .npy files in a folder that has any other image.

    Args:
        options: split: which of several split folders; "none": every sub-folder is a class.
        default_split: train or test, used where there are split folders and the options name none.

    Raises:
        DataError: no images, a class without images, images next to class folders, a split that must be chosen or does
            not exist, folders that can be splits or classes, or are images and their masks.
    """
    folder = _Folder(spec, ARRAYS if _has_only_arrays(path) else (), options.get("split") == NO_SPLIT)
    source = folder.open(path, options.get("split"), default_split)
    source.notes += unread_notes(folder.names.unread)
    return source


def images_in(path: Path) -> tuple[list[str], list[str]]:
    """The names of the images that lie in a folder itself, sorted, and notes on its other files."""
    folder = _Folder(str(path))
    return folder.entries(path)[1], unread_notes(folder.names.unread)


class _Folder:
    """Reads folders of one source.

    Args:
        arrays: endings of arrays, where they are the images.
        as_classes: whether the user said that sub-folders are classes.
    """

    def __init__(self, spec: str, arrays: tuple[str, ...] = (), as_classes: bool = False) -> None:
        self._spec, self._as_classes, self.names = spec, as_classes, ImageNames(arrays)

    def open(self, path: Path, split: str | None, default_split: str | None) -> PathSource:
        folders, images = self.entries(path)
        if not folders:
            choose_split((), split, default_split, self._spec)
            if not images:
                raise DataError(f"{path} has no images{self._unread()}.")
            return PathSource(images, spec=self._spec, folder=path)
        if images:
            raise DataError(
                f"{path} has both images (such as {images[0]}) and sub-folders; expected class folders, or images alone."
            )
        inner = path if split == NO_SPLIT else _inner_folder(path, folders)
        if inner != path:
            return self.open(inner, split, default_split)
        chosen = choose_folder(
            folders, lambda name: frozenset(_folders_in(path / name)), split, default_split, self._spec
        )
        return self._classes(path, folders) if chosen is None else self._split(path / chosen)

    def entries(self, path: Path) -> tuple[list[str], list[str]]:
        """Sorted names of the sub-folders, and of the images."""
        folders, files = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                if not is_folder(entry):
                    files.append(entry.name)
                elif not is_ignored_folder(entry.name):
                    folders.append(entry.name)
        files.sort()  # which files of an unknown ending are opened must not depend on the file system
        images = [name for name in files if self.names.is_image(name, partial(_is_image_in, path, name))]
        return sorted(folders), images

    def _split(self, path: Path) -> PathSource:
        folders = sorted(_folders_in(path))
        while [name.lower() for name in folders] == [path.name.lower()] and not _Folder(self._spec).entries(path)[1]:
            path = path / folders[0]  # train/train, as some archives unpack
            folders = sorted(_folders_in(path))
        layout = folder_layout(folders, lambda name: frozenset(_folders_in(path / name)))
        if layout.splits and not layout.unclear:
            raise DataError(f"{path} has splits ({', '.join(layout.splits)}); use folder:{path}#{layout.splits[0]}.")
        return self.open(path, NO_SPLIT, None)

    def _classes(self, path: Path, classes: list[str]) -> PathSource:
        names = PackedTexts()
        counts, below = [], []
        for folder in classes:
            images = sorted(self._images_below(path / folder, f"{folder}/"))
            if not images:
                raise DataError(
                    f"The class folder {path / folder} has no images{self._unread()}; add some or remove the folder."
                )
            names.extend(images)
            counts.append(len(images))
            if len(classes) == 2:
                below.append([name[len(folder) + 1 :] for name in images])
        notes = [] if self._as_classes else pair_notes(self._spec, classes, below, f"{path}/{{}}")
        labels = np.repeat(np.arange(len(classes)), counts)
        source = PathSource(names, labels, classes, spec=self._spec, folder=path)
        source.notes += notes
        return source

    def _images_below(self, path: Path, prefix: str) -> Iterator[str]:
        """Names, after `prefix`, of all images; links to folders could be circular and are not followed."""
        folders, images = self.entries(path)
        if prefix.count("/") == 1 and not self._as_classes:
            reject_splits_inside(path.name, folders, self._spec)
        yield from (prefix + name for name in images)
        for folder in folders:
            if not (path / folder).is_symlink():
                yield from self._images_below(path / folder, f"{prefix}{folder}/")

    def _unread(self) -> str:
        return "".join(f" ({note})" for note in unread_notes(self.names.unread))


def _is_image_in(path: Path, name: str) -> bool:
    return is_image_file(path / name)


def _has_only_arrays(path: Path) -> bool:
    """Whether there is an array at any depth, and no file with the ending of an image."""
    return _named_like(path) == {"array"}


def _named_like(path: Path, linked: int = 2) -> set[str]:
    """Whether there are files that are named like arrays; or "image" alone, at which the search stops.

    Of links, those to splits and classes are followed.
    """
    folders, found = [], set()
    with os.scandir(path) as entries:
        for entry in entries:
            if is_folder(entry):
                if not is_ignored_folder(entry.name) and (linked or not entry.is_symlink()):
                    folders.append(entry.path)
            elif not is_ignored(entry.name):
                if has_image_ending(entry.name):
                    return {"image"}
                if entry.name.lower().endswith(ARRAYS):
                    found.add("array")
    for folder in folders:
        below = _named_like(Path(folder), max(linked - 1, 0))
        if below == {"image"}:
            return below
        found |= below
    return found


def _inner_folder(path: Path, folders: list[str]) -> Path:
    """The folder that has splits, where it is inside folders that are alone (data/photos/train); else `path`."""
    inner = path
    while len(folders) == 1 and split_of(folders[0]) is None:
        inner = inner / folders[0]
        folders = sorted(_folders_in(inner))
        inside = {name: frozenset(_folders_in(inner / name)) for name in folders}
        layout = folder_layout(folders, inside.__getitem__)
        if layout.splits or layout.nested:
            return inner
    return path


def _folders_in(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if is_folder(entry) and not is_ignored_folder(entry.name)]
