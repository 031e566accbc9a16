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
BYTE_ORDER_MARK = "\ufeff"
_SHOWN_BYTES = 40


def text_encoding(start: bytes) -> str:
    """The encoding of a text by its byte order mark (Excel and PowerShell write one), which decoding then leaves out.

    Without one, by the zero bytes between ASCII characters; else UTF-8.

    Args:
        start: the first four bytes.

    >>> [text_encoding(start) for start in (b"\\xff\\xfep\\0", b"path", b"\\xef\\xbb\\xbfp", b"p\\0a\\0")]
    ['utf-16', 'utf-8-sig', 'utf-8-sig', 'utf-16-le']
    """
    if marked := next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None):
        return marked
    zeros = "".join("0" if byte == 0 else "." for byte in start[:4])
    return {".0.0": "utf-16-le", "0.0.": "utf-16-be", ".000": "utf-32-le", "000.": "utf-32-be"}.get(zeros, "utf-8-sig")


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


def undecodable(path: Path, error: UnicodeDecodeError) -> DataError:
    """The error about a text file in another encoding, with the line."""
    if "utf-8" not in error.encoding.replace("utf8", "utf-8"):
        return DataError(f"{path} begins as {error.encoding.upper()}, but is damaged ({error.reason}).")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as inside:
                shown = line[max(inside.start - _SHOWN_BYTES // 2, 0) : inside.start + _SHOWN_BYTES // 2].strip()
                return DataError(f"{path}, line {number}: {shown!r} is not UTF-8; convert the file to UTF-8.")
    return DataError(f"{path} is not UTF-8; convert it to UTF-8.")
