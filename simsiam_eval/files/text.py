"""The encoding of text files that other programs wrote."""

from __future__ import annotations

import codecs
from pathlib import Path

from simsiam_eval.errors import DataError

# UTF-32 before UTF-16, whose mark is the beginning of UTF-32's.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SHOWN_BYTES = 40


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


def label_text(content: bytes, where: str) -> str:
    """A label or class name: text in UTF-8, or in the encoding of its byte order mark.

    Other bytes are not replaced, as different names may become equal by that.

    Args:
        where: names the text in messages.

    Raises:
        DataError: it is not.
    """
    try:
        return content.decode(text_encoding(content[:4]))
    except UnicodeDecodeError as error:
        shown = content if len(content) <= _SHOWN_BYTES else content[:_SHOWN_BYTES] + b"..."
        raise DataError(f"{where} contains {shown!r}, which is not UTF-8; convert it to UTF-8.") from error
