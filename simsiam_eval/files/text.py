"""The encoding of text files that other programs wrote."""

from __future__ import annotations

import codecs
from pathlib import Path

# UTF-32 before UTF-16, whose mark is the beginning of UTF-32's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def text_encoding(start: bytes) -> str:
    """The encoding of a text by its byte order mark (Excel and PowerShell write one), which decoding then leaves out;
    UTF-8 without one.

    >>> text_encoding(b"\\xff\\xfep\\0"), text_encoding(b"path"), text_encoding(b"\\xef\\xbb\\xbfpath")
    ('utf-16', 'utf-8-sig', 'utf-8-sig')
    """
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


def encoding_of(path: Path) -> str:
    """`text_encoding` of a file. Raises OSError."""
    with path.open("rb") as file:
        return text_encoding(file.read(4))


def read_text(path: Path) -> str:
    """A text file with any byte order mark.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text in UTF-8, nor in the encoding of its mark.
    """
    content = path.read_bytes()
    return content.decode(text_encoding(content[:4]))
