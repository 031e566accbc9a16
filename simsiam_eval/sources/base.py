"""The interface of image sources: rows of (id, image, label), and a fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.decode import open_image, open_wide
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import DecodedImage, OpenedImage, UnreadableImage, read_file
from simsiam_eval.images.stored import OtherChannels, StoredImage, read_stored, rgb_or_gray, selected
from simsiam_eval.images.wide import WideImage
from simsiam_eval.sources.file_state import file_state
from simsiam_eval.sources.labels import merged_classes
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.remembered import remembered_fingerprint

_BLOCK_ROWS = 4096
_READING_THREADS = 8
_CHECKED_IMAGES = 8  # of which one should be readable
_SAMPLED_IMAGES = 16  # that a listing fingerprint reads
_UNREADABLE = b"unreadable"  # instead of the hash of an image


class ImageSource(ABC):
    """Images by row number.

    A subclass defines `id` and `image`, and `_content` or `_content_hashes` for the fingerprint.

    Attributes:
        spec: what the source was opened from.
        labels: (N,) int64, -1 for none.
        class_names: the name of each label, in the Unicode form NFC; None where labels are plain numbers.
        notes: sentences on how images and labels were read, without a full stop.
        in_memory: whether the pixels are in memory, so that decoding processes are not worth their start.
    """

    in_memory = False
    notes: list[str]

    def __init__(self, spec: str, labels: NDArray[np.int64], class_names: Sequence[str] | None) -> None:
        self.spec = as_utf8(spec)
        texts = None if class_names is None else list(map(as_utf8, class_names))
        self.labels, names = merged_classes(np.asarray(labels, dtype=np.int64), texts)
        self.class_names = None if names is None else tuple(names)
        self.notes = []

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def id(self, row: int) -> str:
        """The name of a row: stable, valid UTF-8."""

    def spaced_rows(self, count: int) -> list[int]:
        """At most `count` rows, evenly spaced from the first to the last; [] of an empty source."""
        return sorted({int(row) for row in np.linspace(0, len(self) - 1, count).round()}) if len(self) else []

    def sample_rows(self, count: int) -> list[int]:
        """At most `count` rows, evenly spaced as far as that costs little to read."""
        return self.spaced_rows(count)

    def ids_of(self, rows: range) -> list[str]:
        """The names of a block of rows."""
        return [self.id(row) for row in rows]

    @abstractmethod
    def image(self, row: int) -> OpenedImage:
        """The image of a row, RGB; a JPEG is decoded only when its pixels are requested.

        Raises:
            UnreadableImage: it cannot be opened.
        """

    def wide(self, row: int) -> WideImage | None:
        """The image of a row if its values have more than 8 bits, else None; of others, little more is read than a header.

        Raises:
            UnreadableImage: it cannot be opened.
        """
        return open_wide(self._content(row))

    def stored(self, row: int) -> StoredImage:
        """The pixels of a row with all channels and values that are stored.

        Raises:
            UnreadableImage: they cannot be read.
            DataError: a package is missing.
        """
        return read_stored(self._content(row))

    def opened(self, row: int, selection: ChannelSelection | None, intensity: Intensity) -> OpenedImage:
        """`image`; or, with a selection, the selected channels of `stored`: (H,W,C) float32. Raises as these do.

        Args:
            intensity: which values of images of more than 8 bits are black and white.
        """
        if selection is None:
            return self.image(row).scaled(intensity)
        return DecodedImage(selected(self.stored(row), selection, intensity))

    def require(self, rows: range, selection: ChannelSelection | None, intensity: Intensity) -> None:
        """Check that images can be read as RGB, or that the first readable one has the selected channels.

        Raises:
            DataError: they have other channels.
        """
        for row in rows[:_CHECKED_IMAGES] if selection is not None else ():
            try:
                self.opened(row, selection, intensity)
            except OtherChannels as error:
                raise DataError(f"{self.id(row)}: {error}.") from error
            except UnreadableImage:
                continue
            return

    def fingerprint(self) -> str:
        """sha256 of ids, labels, class names and the content of every image, in order; equal for a copy elsewhere.

        Where the source lies in files, the fingerprint is remembered by their names, sizes and times, so that a restart
        does not read every image again.
        """
        key = self._files_key()
        return self._compute_fingerprint()[0] if key is None else remembered_fingerprint(key, self._compute_fingerprint)

    def listing_fingerprint(self) -> str:
        """sha256 of ids, labels, class names, stored sizes and a few images: for sources too large to be read twice.

        Most changes that keep the sizes go unnoticed. Equal for a copy elsewhere.
        """
        sizes = self._stored_sizes()
        if sizes is None:
            return self.fingerprint()
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        digest.update(self.labels.tobytes())
        for rows in blocks(len(self)):
            digest.update("\0".join(self.ids_of(rows)).encode())
        digest.update(np.asarray(sizes, dtype=np.int64).tobytes())
        for row in np.linspace(0, len(self) - 1, _SAMPLED_IMAGES).astype(int):
            digest.update(self._content_hash(int(row)))
        return f"listing {digest.hexdigest()}"

    def _content(self, row: int) -> bytes:
        """The image of a row as it is stored."""
        raise NotImplementedError

    def _content_hash(self, row: int) -> bytes:
        try:
            return hashlib.sha256(self._content(row)).digest()
        except (OSError, UnreadableImage):
            return _UNREADABLE

    def _content_hashes(self) -> Iterator[bytes]:
        """The sha256 of each stored image, in order."""
        with ThreadPoolExecutor(_READING_THREADS) as pool:
            for rows in blocks(len(self)):
                yield from pool.map(self._content_hash, rows)

    def _stored_sizes(self) -> NDArray[np.int64] | None:
        """Bytes of each image, or of each file that contains them; None: they are in memory."""
        return None

    def _files_key(self) -> str | None:
        """A key that changes whenever the fingerprint could; None: the fingerprint is fast to compute."""
        return None

    def _compute_fingerprint(self) -> tuple[str, bool]:
        """The fingerprint, and whether every image was readable: an unreadable one may become readable."""
        digest = hashlib.sha256(f"[{json.dumps(self.class_names)}, [".encode())
        for rows in blocks(len(self)):
            numbers = ", ".join(map(str, self.labels[rows.start : rows.stop].tolist()))
            digest.update(f"{', ' if rows.start else ''}{numbers}".encode())
        digest.update(b"]]")
        hashes, complete = self._content_hashes(), True
        for rows in blocks(len(self)):
            for name in self.ids_of(rows):
                content_hash = next(hashes)
                complete = complete and content_hash != _UNREADABLE
                digest.update(name.encode() + b"\0" + content_hash)
        return digest.hexdigest(), complete


def blocks(rows: int, size: int = _BLOCK_ROWS) -> Iterator[range]:
    """0 to `rows` in ranges of at most `size`."""
    return (range(start, min(start + size, rows)) for start in range(0, rows, size))


class ArraySource(ImageSource):
    """Images in memory: pixels (N,H,W,3) uint8, or (N,H,W), (N,H,W,1) or (N,H,W,3) of numbers."""

    in_memory = True

    def __init__(
        self,
        spec: str,
        pixels: NDArray[Any],
        labels: NDArray[np.int64],
        class_names: Sequence[str] | None,
        ids: Sequence[str],
    ) -> None:
        super().__init__(spec, labels, class_names)
        self.pixels, self.ids = pixels, ids

    def id(self, row: int) -> str:
        return self.ids[row]

    def image(self, row: int) -> OpenedImage:
        return rgb_or_gray(self.stored(row))

    def wide(self, row: int) -> WideImage | None:
        return as_wide(self.image(row))

    def stored(self, row: int) -> StoredImage:
        return StoredImage(self.pixels[row], "last")

    def _content_hashes(self) -> Iterator[bytes]:
        return (hashlib.sha256(image.tobytes()).digest() for image in self.pixels)


class PathSource(ImageSource):
    """A list of image files and, optionally, of labels.

    Args:
        paths: N files.
        labels: (N,) integers, -1 for none; None: no labels.
        class_names: the name of each label.
        ids: N names; default: the paths as given.
        folder: where relative paths start; default: the working folder.

    Attributes:
        paths: the N files, below `folder`.
        ids: the N names.

    Raises:
        ValueError: not as many labels or ids as paths.
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
        names = paths if isinstance(paths, PackedTexts) else PackedTexts(os.fspath(path) for path in paths)
        self.paths = names.under(folder)
        if ids is not None:
            self.ids = PackedTexts(map(as_utf8, ids))
        else:
            # A file name that is not UTF-8 gets an id that is.
            self.ids = names if names.is_utf8() else PackedTexts(map(as_utf8, names))
        numbers = np.full(len(names), -1) if labels is None else np.asarray(labels)
        if len(numbers) != len(names) or len(self.ids) != len(names):
            raise ValueError(
                f"expected as many labels and ids as the {len(names)} paths; got {len(numbers)}, {len(self.ids)}"
            )
        super().__init__(spec, numbers, class_names)

    def id(self, row: int) -> str:
        return self.ids[row]

    def ids_of(self, rows: range) -> list[str]:
        return self.ids[rows.start : rows.stop : rows.step]

    def image(self, row: int) -> OpenedImage:
        with self._explain_lost_folder():
            return open_image(self.paths[row])

    def wide(self, row: int) -> WideImage | None:
        with self._explain_lost_folder():
            return open_wide(self.paths[row])

    def stored(self, row: int) -> StoredImage:
        with self._explain_lost_folder():
            return read_stored(self._content(row))

    @contextmanager
    def _explain_lost_folder(self) -> Iterator[None]:
        try:
            yield
        except UnreadableImage:
            if self.paths.folder and not os.path.isdir(self.paths.folder):  # not the fault of this image
                raise DataError(
                    f"The folder {self.paths.folder} no longer exists; restore it and rerun the command."
                ) from None
            raise

    def _files_key(self) -> str:
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        digest.update(self.labels.tobytes())
        for texts in (self.ids, self.paths.under(os.path.abspath(self.paths.folder))):
            texts.feed(digest.update)
        for rows in blocks(len(self)):
            states = [file_state(path) for path in self.paths[rows.start : rows.stop]]
            digest.update(np.array(states, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.array([file_state(self.paths[row])[0] for row in range(len(self))], dtype=np.int64)

    def _content(self, row: int) -> bytes:
        return read_file(self.paths[row])


def as_wide(image: OpenedImage) -> WideImage | None:
    """The image if its values have more than 8 bits."""
    return image if isinstance(image, WideImage) else None


def as_utf8(name: str) -> str:
    """A name that is valid UTF-8, the same in every locale; bytes that are not UTF-8 are shown as escapes.

    >>> [as_utf8(name.decode("ascii", "surrogateescape")) for name in (b"caf\\xc3\\xa9", b"caf\\xe9")]
    ['café', 'caf\\\\udce9']
    """
    if name.isascii():
        return name
    # A name of the file system has surrogates for bytes that the locale's encoding lacks; they may be UTF-8.
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "backslashreplace").decode()
