"""PASCAL VOC folders: one XML file of boxes for each image, lists of images in ImageSets/Main."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from simsiam_eval.encoders.families import some
from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import UnreadableImage, image_size
from tasks.detection.data.dataset import Annotation, DetectionSet, LabeledImage

_SPLITS = {"train": ("trainval", "train"), "test": ("test", "val")}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG")
Named = list[tuple[str, Annotation]]


def open_voc(folder: Path, options: Mapping[str, str], spec: str, role: str, classes: tuple[str, ...]) -> DetectionSet:
    """The images of one list of a VOC folder; classes in alphabetical order, difficult objects marked.

    Raises:
        DataError: a list or an annotation file is missing or of the wrong form.
    """
    names = _listed(folder, options.get("split", ""), role, spec)
    read = [_read_xml(folder / "Annotations" / f"{name}.xml", spec) for name in names]
    found = sorted({name for _, _, objects in read for name, _ in objects})
    known = classes or tuple(found)
    number = {name: place for place, name in enumerate(known)}
    images, left_out = [], dict.fromkeys((name for name in found if name not in number), 0)
    for name, (width, height, objects) in zip(names, read, strict=True):
        path = _image_path(folder / "JPEGImages", name)
        if not (width and height):
            width, height = _size(path)
        for label, _ in objects:
            if label in left_out:
                left_out[label] += 1
        kept = tuple(replace(one, label=number[label]) for label, one in objects if label in number)
        images.append(LabeledImage(name, path, width, height, kept))
    return DetectionSet(spec, "voc", known, tuple(images), left_out)


def _listed(folder: Path, split: str, role: str, spec: str) -> list[str]:
    lists = folder / "ImageSets" / "Main"
    if not split:
        split = next((name for name in _SPLITS[role] if (lists / f"{name}.txt").is_file()), "")
    if not split and not lists.is_dir() and (folder / "Annotations").is_dir():
        return sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    there = some(sorted(path.stem for path in lists.glob("*.txt"))) or "no lists"
    if not split:
        what = (
            "name the list, such as #trainval" if lists.is_dir() else f"{folder} is no VOC folder, without Annotations/"
        )
        raise DataError(f"{spec}: {what}; there are: {there}.")
    file = lists / f"{split}.txt"
    try:
        # Lists of one class have a second column, 1, 0 or -1.
        names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{spec}: there is no list {file} that can be read; there are: {there}.") from error
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{file} lists images twice ({some(twice)}): name each once.")
    return names


def _read_xml(file: Path, spec: str) -> tuple[int, int, Named]:
    """Width and height (0 where the file does not say, or nonsense), and the named objects."""
    try:
        root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise DataError(f"{spec}: the annotation file {file} cannot be read ({error.strerror}).") from error
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{file} is not an XML annotation file ({error}): write it again.") from error
    if root.tag != "annotation":
        raise DataError(f"{file} is not a VOC annotation (its root is <{root.tag}>, not <annotation>).")
    width, height = (_number(root.find(f"size/{side}"), file, optional=True) for side in ("width", "height"))
    objects: Named = []
    for place, one in enumerate(root.findall("object"), start=1):
        where = f"object {place} of {file}"
        name = (one.findtext("name") or "").strip()
        if not name or one.find("bndbox") is None:
            raise DataError(f"{where} has no <name> or no <bndbox>: write the file again.")
        xmin, ymin, xmax, ymax = (_number(one.find(f"bndbox/{c}"), where) for c in ("xmin", "ymin", "xmax", "ymax"))
        box = (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1)
        difficult = (one.findtext("difficult") or "0").strip() == "1"
        objects.append((name, Annotation(box, -1, difficult=difficult, area=max(box[2], 0) * max(box[3], 0))))
    return max(int(width), 0), max(int(height), 0), objects


def _number(element: ElementTree.Element | None, where: object, optional: bool = False) -> float:
    text = "" if element is None else (element.text or "").strip()
    if optional and not text:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where} has a coordinate that is no number ({text or 'missing'}): write the file again.")
    return value


def _image_path(folder: Path, name: str) -> Path:
    usual = folder / f"{name}.jpg"
    return next((path for path in (folder / f"{name}{suffix}" for suffix in _SUFFIXES) if path.is_file()), usual)


def _size(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0  # missing images are told together
    try:
        return image_size(path)
    except UnreadableImage as error:
        raise DataError(f"{path} is not an image that can be read ({error}): repair or replace it.") from error
