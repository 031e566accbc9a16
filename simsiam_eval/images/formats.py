"""Which files are images: names that Pillow reads, and files whose content it recognizes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import cache
from typing import BinaryIO

from PIL import Image

NUMPY_MAGIC = b"\x93NUMPY"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF of both byte orders
PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
ARRAYS = (".npy",)
HEIF = (".heic", ".heif", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# Formats of Pillow that are not raster images (drawings, videos, containers whose content it cannot decode), and FITS, of
# which it swaps the bytes of 16-bit values.
_NOT_RASTER = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"}
# Formats whose content can look like any other file.
_WITHOUT_MAGIC = {"IMT", "MCIDAS", "PCD", "SPIDER", "TGA", "XVTHUMB", "IM"}
PREFIX = 16  # bytes by which Pillow recognizes formats
_SHORTEST = 8  # bytes that its functions look at without checking


@cache
def image_endings() -> tuple[str, ...]:
    """The file endings of raster images that this Pillow reads, in lower case; HEIF's where pillow-heif is installed."""
    Image.init()
    register_heif()
    readable = {*Image.OPEN, "MPO"} - _NOT_RASTER  # JPEG's reader opens MPO
    return tuple(sorted(ending for ending, name in Image.EXTENSION.items() if name in readable))


@cache
def register_heif() -> bool:
    """Let Pillow read HEIC and HEIF where pillow-heif is installed; returns whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def ending_of(name: str) -> str:
    """The ending of a file name in lower case, with its dot; "" without one.

    >>> ending_of("a/B.JPG"), ending_of("0f3a"), ending_of("v1.2 final version of it")
    ('.jpg', '', '')
    """
    ending = os.path.splitext(name)[1].lower()
    return ending if ending[1:].isalnum() and len(ending) <= 10 else ""


def has_image_ending(name: str) -> bool:
    """Whether a file's name says that it is an image."""
    return name.lower().endswith(image_endings())


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether the content of a file is an image that Pillow recognizes by its first bytes; False if it cannot be read."""
    try:
        with open(path, "rb", opener=open_nonblocking) as file:
            return is_regular(file) and is_image_content(file)
    except OSError:
        return False


def is_image_content(file: BinaryIO) -> bool:
    """Whether an open file is an image that Pillow recognizes by its first bytes. Raises OSError."""
    formats = formats_of(file.read(PREFIX))
    if not formats:
        return False
    file.seek(0)
    try:
        Image.open(file, formats=formats)
    except Exception:  # a decoder raises anything on what only looks like its format
        return False
    return True


def formats_of(prefix: bytes) -> list[str]:
    """The formats that the first `PREFIX` bytes of a file can be of."""
    return [name for name, accepts in _formats_by_content() if accepts(prefix)]


@cache
def _formats_by_content() -> tuple[tuple[str, Callable[[bytes], bool]], ...]:
    """The formats that a file's first bytes tell, each with the function that looks at them."""
    image_endings()  # registers all formats

    def returns_true(accept: Callable[[bytes], bool | str]) -> Callable[[bytes], bool]:
        return lambda prefix: len(prefix) >= _SHORTEST and accept(prefix) is True  # a str: why it cannot be decoded

    return tuple(
        (name, returns_true(accept))
        for name, (_, accept) in Image.OPEN.items()
        if accept is not None and name not in _NOT_RASTER | _WITHOUT_MAGIC
    )


def is_heif(data: bytes) -> bool:
    """Whether bytes begin like HEIC or HEIF."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def open_nonblocking(path: str, flags: int) -> int:
    """An opener for `open` that does not wait for the writer of a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def is_regular(file: BinaryIO) -> bool:
    """Whether an open file is a regular one: a FIFO would never end."""
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
