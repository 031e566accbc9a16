"""PASCAL VOC folders: an XML file of boxes for each image, and lists of images in ImageSets/Main."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import read_text
from simsiam_eval.images.decode import image_size
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.wording import first_few
from tasks.detection.data.dataset import Annotation, DetectionDataset, LabeledImage

_DEFAULT_SPLITS = {"train": ("trainval", "train"), "test": ("test", "val")}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG")
NamedObjects = list[tuple[str, Annotation]]  # class names with annotations that have no label yet


def open_voc(
    folder: Path, options: Mapping[str, str], spec: str, role: str, classes: tuple[str, ...]
) -> DetectionDataset:
    """The images of one list of a VOC folder; classes in alphabetical order, difficult objects marked.

    Raises:
        DataError: a list or an annotation file is missing or malformed.
    """
    image_names = _image_names(folder, options.get("split", ""), role, spec)
    parsed = [_read_xml(folder / "Annotations" / f"{name}.xml", spec) for name in image_names]
    annotated = sorted({class_name for _, _, objects in parsed for class_name, _ in objects})
    selected = classes or tuple(annotated)
    label_of = {name: label for label, name in enumerate(selected)}
    images, excluded = [], dict.fromkeys((name for name in annotated if name not in label_of), 0)
    for image_name, (width, height, objects) in zip(image_names, parsed, strict=True):
        path = _image_path(folder / "JPEGImages", image_name)
        if not (width and height):
            width, height = _size(path)
        for class_name, _ in objects:
            if class_name in excluded:
                excluded[class_name] += 1
        annotations = tuple(replace(obj, label=label_of[name]) for name, obj in objects if name in label_of)
        images.append(LabeledImage(image_name, path, width, height, annotations))
    return DetectionDataset(spec, "voc", selected, tuple(images), excluded)


def _image_names(folder: Path, split: str, role: str, spec: str) -> list[str]:
    lists = folder / "ImageSets" / "Main"
    if not split:
        split = next((name for name in _DEFAULT_SPLITS[role] if (lists / f"{name}.txt").is_file()), "")
    if not split and not lists.is_dir() and (folder / "Annotations").is_dir():
        return sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    if not split and not lists.is_dir():
        raise DataError(f"{spec}: {folder} is not a VOC folder; it has no Annotations/.")
    available = first_few(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
    if not split:
        raise DataError(f"{spec}: name the list, such as #trainval; available: {available}.")
    file = lists / f"{split}.txt"
    try:
        # The lists of one class have a second column: 1, 0 or -1.
        names = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{spec}: the list {file} cannot be read; available: {available}.") from error
    if len(set(names)) < len(names):
        repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        raise DataError(f"{file} lists images more than once ({first_few(repeated)}).")
    return names


def _read_xml(file: Path, spec: str) -> tuple[int, int, NamedObjects]:
    """Width and height (0 where the file has none or invalid ones), and the objects with their class names."""
    try:
        root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise DataError(f"{spec}: the annotation file {file} cannot be read ({error.strerror}).") from error
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{file} is not valid XML ({error}); expected a VOC annotation.") from error
    if root.tag != "annotation":
        raise DataError(f"{file} is not a VOC annotation: its root is <{root.tag}>, not <annotation>.")
    width, height = (_number(root.find(f"size/{side}"), file, optional=True) for side in ("width", "height"))
    objects: NamedObjects = []
    for index, element in enumerate(root.findall("object"), start=1):
        where = f"object {index} of {file}"
        class_name = (element.findtext("name") or "").strip()
        if not class_name or element.find("bndbox") is None:
            raise DataError(f"{where} has no <name> or no <bndbox>.")
        corners = (element.find(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
        xmin, ymin, xmax, ymax = (_number(corner, where) for corner in corners)
        box = (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1)
        difficult = (element.findtext("difficult") or "0").strip() == "1"
        objects.append((class_name, Annotation(box, -1, difficult=difficult, area=max(box[2], 0) * max(box[3], 0))))
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
        raise DataError(f"{where} has a coordinate that is not a number ({text or 'missing'}).")
    return value


def _image_path(folder: Path, name: str) -> Path:
    candidates = (folder / f"{name}{suffix}" for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), folder / f"{name}.jpg")


def _size(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0  # missing images are reported together, once all are listed
    try:
        return image_size(path)
    except UnreadableImage as error:
        raise DataError(f"The image {path} cannot be read ({error}).") from error
