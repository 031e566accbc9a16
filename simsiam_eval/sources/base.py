"""What every image source is: rows of (id, image, label), and a fingerprint of all of it."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.cache_folder import cache_folder
from simsiam_eval.images import DecodedImage, OpenedImage, open_image


class ImageSource(ABC):
    """Images by row number.

    Attributes:
        spec: what it was opened from.
        labels: (N,) int64, -1 for none.
        class_names: name of each label, or None where labels are numbers of their own.
        in_memory: whether its pixels are (then decoding processes are not worth their start).
    """

    in_memory = False

    def __init__(self, spec: str, labels: NDArray[np.int64], class_names: Sequence[str] | None) -> None:
        self.spec = spec
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names) if class_names is not None else None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def id(self, row: int) -> str:
        """The row's name: stable, valid UTF-8."""

    @abstractmethod
    def image(self, row: int) -> OpenedImage:
        """The row's image, RGB; a JPEG is decoded only when its pixels are asked for.

        Raises:
            UnreadableImage: it cannot be opened.
        """

    @abstractmethod
    def _content_hashes(self) -> Iterator[bytes]:
        """A hash of each row's stored image, in order."""

    def fingerprint(self) -> str:
        """sha256 of ids, labels, class names and every image's content, in order; the same for a copy elsewhere."""
        digest = hashlib.sha256(json.dumps([self.class_names, self.labels.tolist()]).encode())
        for row, content in enumerate(self._content_hashes()):
            digest.update(self.id(row).encode() + b"\0" + content)
        return digest.hexdigest()


class ArraySource(ImageSource):
    """Images held in memory: pixels (N,H,W,3) uint8."""

    in_memory = True

    def __init__(
        self,
        spec: str,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        class_names: Sequence[str] | None,
        ids: Sequence[str],
    ) -> None:
        super().__init__(spec, labels, class_names)
        self.pixels, self.ids = pixels, ids

    def id(self, row: int) -> str:
        return self.ids[row]

    def image(self, row: int) -> OpenedImage:
        return DecodedImage(self.pixels[row])

    def _content_hashes(self) -> Iterator[bytes]:
        return (hashlib.sha256(image.tobytes()).digest() for image in self.pixels)


class PathSource(ImageSource):
    """A list of image files and, where there are any, a list of labels.

    Args:
        paths: N files.
        labels: (N,) integers, -1 for none; None: no labels.
        class_names: name of each label.
        ids: N names; default: the paths.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        labels: Sequence[int] | NDArray[np.int64] | None = None,
        class_names: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        spec: str = "paths",
    ) -> None:
        numbers = np.full(len(paths), -1) if labels is None else np.asarray(labels)
        if len(numbers) != len(paths) or (ids is not None and len(ids) != len(paths)):
            raise ValueError(f"{len(paths)} paths do not go with {len(numbers)} labels")
        super().__init__(spec, numbers, class_names)
        self.paths = [os.fspath(path) for path in paths]
        # A file name that is not UTF-8 still gets a name that is.
        self.ids = [name.encode("utf-8", "backslashreplace").decode() for name in (ids or self.paths)]

    def id(self, row: int) -> str:
        return self.ids[row]

    def image(self, row: int) -> OpenedImage:
        return open_image(self.paths[row])

    def fingerprint(self) -> str:
        """As ImageSource's; remembered by names, sizes and times, so that a restart does not read ten million files."""
        return remembered(self._listing(), super().fingerprint)

    def _listing(self) -> str:
        digest = hashlib.sha256(json.dumps([self.class_names, self.labels.tolist(), self.ids]).encode())
        for path in self.paths:
            digest.update(json.dumps([os.path.abspath(path), *_stat(path)]).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def _content_hashes(self) -> Iterator[bytes]:
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(self.paths), 4096):
                yield from pool.map(_file_hash, self.paths[start : start + 4096])


def _stat(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _file_hash(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b"unreadable"


def remembered(key: str, compute: Callable[[], str]) -> str:
    """compute(), or what it gave for this key before; a cache that cannot be read or written does no harm."""
    note = Path(cache_folder()) / "fingerprints" / key
    try:
        known = note.read_text()
        if len(known) == 64:
            return known
    except (OSError, UnicodeDecodeError):
        pass
    value = compute()
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_name(f"{key}.{os.getpid()}")
        temporary.write_text(value)
        os.replace(temporary, note)
    except OSError:
        pass
    return value
