"""Millions of strings as one block of bytes.

Without an object per row there are no reference counts for a forked worker to change, so workers share the memory
instead of copying it page by page.
"""

from __future__ import annotations

import copy
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

_CHUNK = 65536


class PackedTexts(Sequence[str]):
    """A sequence of texts that can only grow.

    Texts that are not UTF-8 (file names may be anything) keep their surrogates. Below a folder they are paths, spelled as
    the operating system's functions take them, whatever the locale.

    >>> texts = PackedTexts(["cat/a.png", "dog/b.png"])
    >>> texts[1], texts[:1], len(texts), texts.under("/photos")[0]
    ('dog/b.png', ['cat/a.png'], 2, '/photos/cat/a.png')
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])
        self._folder: str | None = None
        self.extend(texts)

    def extend(self, texts: Iterable[str]) -> None:
        """Add texts, read in one pass."""
        texts = iter(texts)
        while chunk := [text.encode("utf-8", "surrogateescape") for text in islice(texts, _CHUNK)]:
            self._bytes += b"".join(chunk)
            ends = np.cumsum(np.fromiter(map(len, chunk), np.int64, len(chunk))) + self._ends[-1]
            self._ends.frombytes(ends.tobytes())

    def under(self, folder: str | os.PathLike[str]) -> PackedTexts:
        """The same texts as paths below a folder; absolute paths stay as they are. Shares the memory."""
        view = copy.copy(self)
        view._folder = os.fsdecode(folder)
        return view

    @property
    def folder(self) -> str:
        """The folder that `under` was called with, or ""."""
        return self._folder or ""

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        text = bytes(self._bytes[self._ends[index] : self._ends[index + 1]])
        if self._folder is not None:
            return os.path.join(self._folder, os.fsdecode(text))
        return text.decode("utf-8", "surrogateescape")

    def is_utf8(self) -> bool:
        """Whether every text is valid UTF-8."""
        for start in range(0, len(self), _CHUNK):
            stop = min(start + _CHUNK, len(self))
            try:
                self._bytes[self._ends[start] : self._ends[stop]].decode()
            except UnicodeDecodeError:
                return False
        return True

    def feed(self, update: Callable[[Any], object]) -> None:
        """Pass all texts to the `update` of a hash; other texts, or other boundaries between them, change it."""
        update(os.fsencode(self.folder) + b"\0")
        update(self._ends)
        update(self._bytes)

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of all texts, and the N + 1 offsets between which they lie."""
        return np.frombuffer(self._bytes, np.uint8), np.frombuffer(self._ends, np.int64)

    @classmethod
    def from_arrays(cls, content: NDArray[np.uint8], ends: NDArray[np.int64]) -> Self:
        """The texts whose `arrays` these are.

        Raises:
            ValueError: the two do not belong together.
        """
        if ends.dtype != np.int64 or content.dtype != np.uint8 or not len(ends) or ends[0] or ends[-1] != len(content):
            raise ValueError("the ends do not belong to the content")
        texts = cls()
        texts._bytes, texts._ends = bytearray(content), array("q", ends.tobytes())
        return texts
