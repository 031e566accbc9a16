"""Millions of texts as one block of bytes: there is no object per row whose count a forked worker could touch, so that
workers share the pages instead of copying them one by one."""

from __future__ import annotations

import copy
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 65536


class PackedTexts(Sequence[str]):
    """Texts by number; they can only be added to.

    Texts that are not UTF-8 (file names may be anything) are kept as Python holds them, with surrogates.

    >>> texts = PackedTexts(["cat/a.png", "dog/b.png"])
    >>> texts[1], texts[:1], len(texts), texts.under("/photos")[0]
    ('dog/b.png', ['cat/a.png'], 2, '/photos/cat/a.png')
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends, self._folder = bytearray(), array("q", [0]), ""
        self.extend(texts)

    def extend(self, texts: Iterable[str]) -> None:
        """Add texts, read in one pass."""
        texts = iter(texts)
        while chunk := [text.encode("utf-8", "surrogateescape") for text in islice(texts, _AT_ONCE)]:
            self._bytes += b"".join(chunk)
            ends = np.cumsum(np.fromiter(map(len, chunk), np.int64, len(chunk))) + self._ends[-1]
            self._ends.frombytes(ends.tobytes())

    def under(self, folder: str | os.PathLike[str]) -> PackedTexts:
        """The same bytes, read as paths that start at a folder (but for those that are absolute)."""
        view = copy.copy(self)
        view._folder = os.fspath(folder)
        return view

    @property
    def folder(self) -> str:
        """Where the texts, read as paths, start; "" where they stand for themselves."""
        return self._folder

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        if at < 0:
            at += len(self)
        if not 0 <= at < len(self):
            raise IndexError(at)
        text = self._bytes[self._ends[at] : self._ends[at + 1]].decode("utf-8", "surrogateescape")
        return os.path.join(self._folder, text) if self._folder else text

    def is_utf8(self) -> bool:
        """Whether every text is valid UTF-8."""
        for start in range(0, len(self), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(self))
            try:
                self._bytes[self._ends[start] : self._ends[stop]].decode()
            except UnicodeDecodeError:
                return False
        return True

    def feed(self, update: Callable[[Any], object]) -> None:
        """Give all texts to a hash's `update`; other texts, or other borders between them, are another hash."""
        update(os.fsencode(self._folder) + b"\0")
        update(self._ends)
        update(self._bytes)

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of all texts, and the N + 1 places where one ends and the next begins."""
        return np.frombuffer(self._bytes, np.uint8), np.frombuffer(self._ends, np.int64)

    @classmethod
    def from_arrays(cls, content: NDArray[np.uint8], ends: NDArray[np.int64]) -> Self:
        """What `arrays` was given by.

        Raises:
            ValueError: the two do not fit together.
        """
        if ends.dtype != np.int64 or content.dtype != np.uint8 or not len(ends) or ends[0] or ends[-1] != len(content):
            raise ValueError("the ends are not those of the texts")
        texts = cls()
        texts._bytes, texts._ends = bytearray(content), array("q", ends.tobytes())
        return texts
