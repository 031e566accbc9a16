"""What every image source is: rows of (id, image, label), and a fingerprint of all of it."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import DecodedImage, OpenedImage, UnreadableImage, open_image, read_file
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.remembered import remembered_text, state_of_file

_AT_ONCE = 4096  # rows
_SAMPLE = 16  # images that a listing fingerprint reads
UNREADABLE = b"unreadable"  # in the place of a content's hash


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
        self.spec = as_utf8(spec)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names) if class_names is not None else None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def id(self, row: int) -> str:
        """The row's name: stable, valid UTF-8."""

    def ids_of(self, rows: range) -> list[str]:
        """The names of a block of rows."""
        return [self.id(row) for row in rows]

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
        """sha256 of ids, labels, class names and every image's content, in order; the same for a copy elsewhere.

        Where the source lies in files it is remembered by their names, sizes and times, so that a restart does not read
        ten million images.
        """
        key = self._files_key()
        return self._computed_fingerprint()[0] if key is None else remembered_text(key, self._computed_fingerprint)

    def listing_fingerprint(self) -> str:
        """sha256 of ids, labels, class names, the sizes of what is stored, and a few of the images: for sources too large
        to be read twice. Most changes that leave the size go unnoticed; a copy elsewhere has the same."""
        sizes = self._stored_sizes()
        if sizes is None:
            return self.fingerprint()
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        digest.update(self.labels.tobytes())
        for rows in blocks(len(self)):
            digest.update("\0".join(self.ids_of(rows)).encode())
        digest.update(np.asarray(sizes, dtype=np.int64).tobytes())
        for row in np.linspace(0, len(self) - 1, _SAMPLE).astype(int):
            digest.update(next(hashes_of(lambda _, row=int(row): self._content(row), 1)))  # type: ignore[misc]
        return f"listing {digest.hexdigest()}"

    def _content(self, row: int) -> bytes:
        """What is stored of a row's image; wanted where there are stored sizes."""
        raise NotImplementedError

    def _stored_sizes(self) -> NDArray[np.int64] | None:
        """Bytes of each image, or of each file that holds them; None: they are in memory."""
        return None

    def _files_key(self) -> str | None:
        """What the fingerprint is remembered by: changes whenever the fingerprint could. None: it is quick to compute."""
        return None

    def _computed_fingerprint(self) -> tuple[str, bool]:
        """The fingerprint, and whether every image's content is in it: what could not be read may be readable later."""
        digest = hashlib.sha256(f"[{json.dumps(self.class_names)}, [".encode())
        for rows in blocks(len(self)):
            numbers = ", ".join(map(str, self.labels[rows.start : rows.stop].tolist()))
            digest.update(f"{', ' if rows.start else ''}{numbers}".encode())
        digest.update(b"]]")
        contents, whole = self._content_hashes(), True
        for rows in blocks(len(self)):
            for name in self.ids_of(rows):
                content = next(contents)
                whole = whole and content != UNREADABLE
                digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest(), whole


def blocks(rows: int, size: int = _AT_ONCE) -> Iterator[range]:
    """0 to `rows` in ranges of at most `size`."""
    return (range(start, min(start + size, rows)) for start in range(0, rows, size))


def hashes_of(read: Callable[[int], bytes], rows: int) -> Iterator[bytes]:
    """sha256 of what `read` gives for each row, in order, read by threads; of an unreadable one a mark."""

    def hashed(row: int) -> bytes:
        try:
            return hashlib.sha256(read(row)).digest()
        except (OSError, UnreadableImage):
            return UNREADABLE

    with ThreadPoolExecutor(8) as pool:
        for block in blocks(rows):
            yield from pool.map(hashed, block)


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
        ids: N names; default: the paths as given.
        folder: where paths that are not absolute start; default: the working folder.

    Attributes:
        paths: the N files, below `folder`.
        ids: the N names.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]] | PackedTexts,
        labels: Sequence[int] | NDArray[np.int64] | None = None,
        class_names: Sequence[str] | None = None,
        ids: Iterable[str] | None = None,
        spec: str = "paths",
        folder: str | os.PathLike[str] = "",
    ) -> None:
        given = paths if isinstance(paths, PackedTexts) else PackedTexts(os.fspath(path) for path in paths)
        self.paths = given.under(folder)
        if ids is not None:
            self.ids = PackedTexts(map(as_utf8, ids))
        else:
            # A file name that is not UTF-8 still gets a name that is.
            self.ids = given if given.is_utf8() else PackedTexts(map(as_utf8, given))
        numbers = np.full(len(given), -1) if labels is None else np.asarray(labels)
        if len(numbers) != len(given) or len(self.ids) != len(given):
            raise ValueError(f"{len(given)} paths do not go with {len(numbers)} labels and {len(self.ids)} ids")
        super().__init__(spec, numbers, class_names)

    def id(self, row: int) -> str:
        return self.ids[row]

    def ids_of(self, rows: range) -> list[str]:
        return self.ids[rows.start : rows.stop : rows.step]

    def image(self, row: int) -> OpenedImage:
        try:
            return open_image(self.paths[row])
        except UnreadableImage:
            if self.paths.folder and not os.path.isdir(self.paths.folder):  # then no image is at fault
                raise DataError(
                    f"The folder {self.paths.folder} is gone: bring it back and give the same command again."
                ) from None
            raise

    def _files_key(self) -> str:
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        digest.update(self.labels.tobytes())
        for texts in (self.ids, self.paths.under(os.path.abspath(self.paths.folder))):
            texts.feed(digest.update)
        for rows in blocks(len(self)):
            found = [state_of_file(path) for path in self.paths[rows.start : rows.stop]]
            digest.update(np.array(found, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.array([state_of_file(self.paths[row])[0] for row in range(len(self))], dtype=np.int64)

    def _content_hashes(self) -> Iterator[bytes]:
        return hashes_of(self._content, len(self))

    def _content(self, row: int) -> bytes:
        return read_file(self.paths[row])


def as_utf8(name: str) -> str:
    """A name that is valid UTF-8 and shows what was not."""
    return name.encode("utf-8", "backslashreplace").decode()
