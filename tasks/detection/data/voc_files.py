"""The annotation files of a VOC folder, one for each image, and the image that belongs to it."""

from __future__ import annotations

import codecs
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.images.formats import has_image_ending, is_image_file
from simsiam_eval.sources.labels import canonical_name
from simsiam_eval.wording import first_few
from tasks.detection.data.outlines import MAX_COORDINATE

_WORDS = {"true": 1, "yes": 1, "false": 0, "no": 0}
_DECLARATION = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["'](?P<encoding>[\w.:-]+)["'][^>]*\?>""")


@dataclass(frozen=True)
class VocObject:
    """An object as the file has it.

    Attributes:
        name: of its class.
        corners: xmin, ymin, xmax, ymax, inclusive, in pixels counted from 1.
        difficult: 0 or 1; None where the file does not say.
        word: whether `difficult` was written as a word.
    """

    name: str
    corners: tuple[float, float, float, float]
    difficult: int | None
    word: bool


@dataclass(frozen=True)
class VocImage:
    """The objects of an image, its size (0 where the file has none or an invalid one), and its name in the file, or ""."""

    width: int
    height: int
    file_name: str
    objects: list[VocObject]


def read_xml(file: Path, spec: str) -> VocImage:
    """Read an annotation file.

    Raises:
        DataError: it is missing or malformed.
    """
    try:
        root = _parsed(file.read_bytes())
    except OSError as error:
        raise DataError(f"{spec}: the annotation file {file} cannot be read ({error.strerror}).") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{file} is not valid XML ({error}); expected a VOC annotation.") from error
    if root.tag != "annotation":
        raise DataError(f"{file} is not a VOC annotation: its root is <{root.tag}>, not <annotation>.")
    size = _child(root, "size", str(file))
    width, height = (
        0 if size is None else _side(_text(size, side, str(file)), side, file) for side in ("width", "height")
    )
    objects = [_object(element, f"object {index} of {file}") for index, element in enumerate(root.findall("object"), 1)]
    return VocImage(width, height, (root.findtext("filename") or "").strip(), objects)


def _parsed(content: bytes) -> ElementTree.Element:
    """The root of an XML document in any encoding that Python knows; the parser itself knows few.

    Raises:
        ParseError, LookupError, ValueError: it is no XML, or in an unknown encoding.
    """
    declared = _DECLARATION.match(content)
    encoding = declared["encoding"].decode() if declared else ""
    if not declared or codecs.lookup(encoding).name in ("utf-8", "utf-16", "iso8859-1", "ascii"):
        return ElementTree.fromstring(content)
    return ElementTree.fromstring(content[declared.end() :].decode(encoding))


def _child(element: ElementTree.Element, tag: str, where: str) -> ElementTree.Element | None:
    """The element of this tag; None without one. Raises DataError for several, of which one would be dropped."""
    found = element.findall(tag)
    if len(found) > 1:
        raise DataError(f"{where} has {len(found)} elements <{tag}>; expected one.")
    return found[0] if found else None


def _text(element: ElementTree.Element, tag: str, where: str) -> str:
    """The text of a child, each run of white space as one space; "" without one. Raises as `_child`."""
    child = _child(element, tag, where)
    return "" if child is None else " ".join((child.text or "").split())


def _side(text: str, side: str, file: Path) -> int:
    value = _float(text) if text else 0.0
    if not (value.is_integer() and value < 2**31):
        raise DataError(f"{file} has <{side}> {text!r}; expected a whole number of pixels.")
    return max(int(value), 0)


def _object(element: ElementTree.Element, where: str) -> VocObject:
    name, box = canonical_name(_text(element, "name", where)), _child(element, "bndbox", where)
    if not name:
        raise DataError(f"{where} has no <name>; expected that of its class.")
    if box is None:
        raise DataError(f"{where} has no <bndbox>; expected one with <xmin>, <ymin>, <xmax> and <ymax>.")
    xmin, ymin, xmax, ymax = (
        _coordinate(_text(box, corner, where), corner, where) for corner in ("xmin", "ymin", "xmax", "ymax")
    )
    text = _text(element, "difficult", where)
    word = text.lower() in _WORDS
    number = _float(text)
    if text and not word and number not in (0, 1):
        raise DataError(f"{where} has <difficult> {text!r}; expected 0 or 1.")
    difficult = _WORDS[text.lower()] if word else int(number) if text else None
    return VocObject(name, (xmin, ymin, xmax, ymax), difficult, word)


def _coordinate(text: str, corner: str, where: str) -> float:
    value = _float(text)
    if not abs(value) < MAX_COORDINATE:
        found = f"has <{corner}> {text!r}, not a number" if text else f"has no <{corner}>"
        raise DataError(f"{where} {found}; expected pixels.")
    return value


def _float(text: str) -> float:
    """NaN for a text that is not a number; digits may not be grouped by underscores, as Python allows."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def image_paths(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """The image file of each name, whatever its ending; NAME.jpg where there is none or several.

    Raises:
        DataError: there are several, and none of them is NAME.jpg.
    """
    listed: dict[Path, dict[str, list[Path]]] = {}
    for name in names:
        path = folder / name
        if path.parent not in listed:
            listed[path.parent] = files_by_stem(path.parent)
        found = [file.name for file in images_among(listed[path.parent].get(path.name, []))]
        if len(found) > 1 and f"{path.name}.jpg" not in found:
            raise DataError(f"{path.parent} has several images of the name {path.name} ({first_few(sorted(found))}).")
        yield str(path.parent / (found[0] if len(found) == 1 else f"{path.name}.jpg"))


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Name without its ending -> the files of that name."""
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        found.setdefault(path.stem, []).append(path)
    return found


def images_among(files: list[Path]) -> list[Path]:
    """The images, by their endings; by their content where none has such an ending."""
    return [path for path in files if has_image_ending(path.name)] or list(filter(is_image_file, files))
