"""The image files of a dataset: whether they exist, and their sizes by their headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import image_size
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.runtime.machine import thread_count
from simsiam_eval.sources.labels import canonical_name
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.wording import first_few
from tasks.detection.data.issues import Issues

_CHUNK = 1024  # images between two chances for Ctrl-C
_T = TypeVar("_T")
_R = TypeVar("_R")


def in_threads(function: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
    """`function` of each item, in order; the threads wait for the disk."""
    with ThreadPoolExecutor(thread_count()) as pool:
        for start in range(0, len(items), _CHUNK):
            yield from pool.map(function, items[start : start + _CHUNK])


def existing_images(paths: PackedTexts, spec: str) -> PackedTexts:
    """The paths, of which there is at least one, if all of them exist.

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
            "Add them, or remove them from the list."
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
    found = in_threads(_size, [paths[row] for row in unknown.tolist()])
    for row, size in zip(unknown.tolist(), found, strict=True):
        sizes[row] = size
    return sizes


def _size(path: str) -> tuple[int, int]:
    try:
        return image_size(path)
    except UnreadableImage as error:
        raise DataError(f"The image {path} cannot be read ({error}).") from error
