"""The image files of a dataset: whether they exist, and their sizes by their headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import image_header
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.runtime.machine import thread_count
from simsiam_eval.sources.labels import canonical_name
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.wording import first_few
from tasks.detection.data.issues import Issues

TURNED = "image that its EXIF orientation turns or mirrors: check that the boxes are those of the image as displayed"
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_CHUNK = 1024  # images between two chances for Ctrl-C
_T = TypeVar("_T")
_R = TypeVar("_R")


def in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
    """`function` of each item, in order; the threads wait for the disk."""
    with ThreadPoolExecutor(thread_count()) as pool:
        for start in range(0, len(items), _CHUNK):
            yield from pool.map(function, items[start : start + _CHUNK])


def existing_images(paths: PackedTexts, spec: str, where: str = "") -> PackedTexts:
    """The paths, of which there is at least one, if all of them exist; `where` explains them to the user if not.

    Raises:
        DataError: there is none, or images are missing.
    """
    if not len(paths):
        raise DataError(f"{spec} lists no images.")
    names_in: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in names_in:
            names_in[folder] = _names(Path(folder or "/"))
        if name not in names_in[folder]:
            missing.append(path)
    if missing:
        folder, _, name = missing[0].rpartition("/")
        other = next((found for found in names_in[folder] if _plain(found) == _plain(name)), None)
        hint = f"; there is {other}, whose name differs in case or Unicode form" if other else ""
        raise DataError(
            f"{spec}: {len(missing)} of {len(paths)} images are missing ({first_few(missing)}{hint}). "
            f"Add them, or remove them from the list{f'; {where}' if where else ''}."
        )
    return paths


def _plain(name: str) -> str:
    return canonical_name(name).casefold()


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def known_sizes(
    sizes: NDArray[np.int32], paths: Sequence[str], ids: Sequence[str], issues: Issues
) -> NDArray[np.int32]:
    """Widths and heights (N,2); 0 is replaced by what the header of the image says, and counted.

    Raises:
        DataError: such an image cannot be read.
    """
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    issues.add("image without a size in its annotations, read from the file", ids, unknown)
    sizes = sizes.copy()
    found = in_threads(_header, [paths[row] for row in unknown.tolist()])
    turned = []
    for row, (width, height, orientation) in zip(unknown.tolist(), found, strict=True):
        sizes[row] = width, height
        if orientation in SIDEWAYS and width != height:  # `check_images` finds the others
            turned.append(row)
    issues.add(TURNED, ids, turned)
    return sizes


def _header(path: str) -> tuple[int, int, int]:
    try:
        return image_header(path)
    except UnreadableImage as error:
        raise DataError(f"The image {path} cannot be read ({error}).") from error
