"""Which files are read as images: every format that Pillow reads, under any name; the rest is counted and named."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, features

from input_cases.case import Case, difference
from simsiam_eval.errors import DataError
from simsiam_eval.runtime import notes
from simsiam_eval.sources.opening import open_source

RNG = np.random.default_rng(0)
FORMATS = {
    ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "MPO", ".JPG": "JPEG", ".tga": "TGA", ".pcx": "PCX", ".pnm": "PPM",
    ".sgi": "SGI", ".dds": "DDS", ".qoi": "QOI", ".apng": "PNG", ".webp": "WEBP", ".tiff": "TIFF", "": "PNG",
    ".0001": "JPEG", ".frame": "GIF", ".photo": "TIFF",
}  # fmt: skip
if features.check("avif"):
    FORMATS |= {".avif": "AVIF", ".hdr-photo": "AVIF"}
if features.check("jpg_2000"):
    FORMATS |= {".jp2": "JPEG2000", ".j2k": "JPEG2000"}
OTHERS = {
    "labels.txt": b"a", "a.xml": b"<a/>", "README": b"# a", "x.heic": b"\0\0\0\x18ftypheic", "v.mp4": b"\0\0\0\x18ftyp",
    "page.pdf": b"%PDF-1.4", "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n", "main.h": b"#define a 1\n",
}  # fmt: skip
IGNORED = {".DS_Store": b"a", "Thumbs.db": b"a", "._a.jpg": b"a", "desktop.ini": b"a"}
SAID = "8 files were not read as images"


def encoded(kind: str) -> bytes:
    """An image file of 16 x 16 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def as_folder(folder: Path, files: dict[str, bytes]) -> str:
    """The files in a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


def as_tar(folder: Path, files: dict[str, bytes]) -> str:
    """The files in a tar archive."""
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return str(folder / "a.tar")


def as_zip(folder: Path, files: dict[str, bytes]) -> str:
    """The files in a zip archive."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(folder / "a.zip")


def read(spec: str) -> tuple[list[str], str]:
    """The names of the images that can be decoded, and what was printed."""
    notes._said.clear()
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        source = open_source(spec)
        for row in range(len(source)):
            source.image(row).pixels()
    return sorted(source.id(row) for row in range(len(source))), printed.getvalue()


def format_case(ending: str, kind: str, pack: Callable[[Path, dict[str, bytes]], str]) -> Case:
    """One file of a format."""

    def check(folder: Path) -> str | None:
        files = {f"a{ending}": encoded(kind), "z.png": encoded("PNG")}
        return difference(read(pack(folder, files)), (sorted(files), ""))

    return Case(f"{kind} named a{ending}, {pack.__name__.replace('_', ' ')}", "read", check)


def rest_case(pack: Callable[[Path, dict[str, bytes]], str]) -> Case:
    """Images among other files."""

    def check(folder: Path) -> str | None:
        names, printed = read(pack(folder, {"a.png": encoded("PNG")} | OTHERS | IGNORED))
        if wrong := difference(names, ["a.png"]):
            return wrong
        return difference((SAID in printed, printed.count("\n")), (True, 1))

    return Case(f"other files, {pack.__name__.replace('_', ' ')}", "counted and named in one line", check)


def pairs_case(first: str, second: str, numbered: bool = False) -> Case:
    """Two folders with files of the same names, of which one holds masks."""

    def check(folder: Path) -> str | None:
        for name in (first, second):
            (folder / name).mkdir()
            for number in range(3):
                (folder / name / f"{number if numbered else 'abc'[number]}.png").write_bytes(encoded("PNG"))
        try:
            read(str(folder))
        except DataError as error:
            return None if "images and their masks" in str(error) else str(error)
        return "read as two classes"

    return Case(f"{first} and {second} with the same names", "an error that says how to read the images", check)


CASES: list[Case] = [
    *(format_case(ending, kind, pack) for ending, kind in FORMATS.items() for pack in (as_folder, as_tar)),
    *(rest_case(pack) for pack in (as_folder, as_tar, as_zip)),
    pairs_case("images", "masks"),
    pairs_case("imgs", "labels", numbered=True),
    pairs_case("JPEGImages", "SegmentationClass"),
    pairs_case("rgb", "depth"),
]
