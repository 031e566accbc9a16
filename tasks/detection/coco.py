"""COCO JSON: images, annotations and categories in one file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from simsiam_eval.conversion import some
from simsiam_eval.errors import DataError, UsageError
from tasks.detection.dataset import Annotation, DetectionSet, LabelledImage


def open_coco(path: Path, tail: str, spec: str, role: str, classes: tuple[str, ...]) -> DetectionSet:
    """The images of one annotation file, in its order; classes in the order of their ids.

    Raises:
        UsageError: an option that there is not. DataError: the file is missing or of the wrong form.
    """
    file, folder = _files(path, tail, spec, role)
    content = _read(file)
    names = {one["id"]: one["name"] for one in sorted(content["categories"], key=lambda one: one["id"])}
    if len(set(names.values())) < len(names):
        raise DataError(f"{file} has two categories of one name: give each its own.")
    known = classes or tuple(names.values())
    number = {category: known.index(name) for category, name in names.items() if name in known}
    objects: dict[Any, list[Annotation]] = {one["id"]: [] for one in content["images"]}
    left_out: dict[str, int] = {}
    if len(objects) < len(content["images"]):
        raise DataError(f"{file} has two images of one id: give each its own.")
    for one in content["annotations"]:
        where = f"annotation {one.get('id')} of {file}"
        if one["image_id"] not in objects:
            raise DataError(f"{where} is of image {one['image_id']}, which the file does not list.")
        if one["category_id"] not in names:
            listed = some(map(str, names))
            raise DataError(f"{where} is of category {one['category_id']}, which the file does not list ({listed}).")
        if one["category_id"] not in number:
            name = names[one["category_id"]]
            left_out[name] = left_out.get(name, 0) + 1
        else:
            objects[one["image_id"]].append(_annotation(one, number[one["category_id"]], where))
    images = tuple(
        LabelledImage(one["id"], folder / one["file_name"], one["width"], one["height"], tuple(objects[one["id"]]))
        for one in content["images"]
    )
    return DetectionSet(spec, "coco", known, images, left_out)


def _annotation(one: dict[str, Any], label: int, where: str) -> Annotation:
    box = one["bbox"]
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in box)
    ):
        raise DataError(f"{where} has the bbox {box!r}, not four numbers x, y, width, height.")
    return Annotation(
        box=(box[0], box[1], box[2], box[3]),
        label=label,
        crowd=bool(one.get("iscrowd", 0)),
        area=float(one.get("area", max(box[2], 0) * max(box[3], 0))),
        segmentation=_segmentation(one.get("segmentation")),
    )


def _segmentation(given: Any) -> Any:
    """RLE, or the polygons that have three corners and more; None where there are none."""
    if isinstance(given, dict):
        return given if {"size", "counts"} <= set(given) else None
    polygons = [one for one in given or () if isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0]
    return polygons or None


def _files(path: Path, tail: str, spec: str, role: str) -> tuple[Path, Path]:
    """The annotation file and the folder of the images."""
    key, equals, value = tail.partition("=")
    if path.is_file():
        if tail and (key != "images" or not equals):
            raise UsageError(f"{spec}: after a file there can only be #images=FOLDER.")
        return path, Path(value).expanduser() if value else path.parent
    split = value if key == "split" and equals else tail
    if equals and key != "split":
        raise UsageError(f"{spec}: after a folder there can only be #SPLIT, such as #train2017.")
    if not split:
        found = sorted((path / "annotations").glob(f"instances_{ {'train': 'train', 'test': 'val'}[role] }*.json"))
        if len(found) != 1:
            there = some(one.stem.removeprefix("instances_") for one in (path / "annotations").glob("instances_*.json"))
            raise DataError(f"{spec}: name the split, such as #train2017; there are: {there or 'none'}.")
        split = found[0].stem.removeprefix("instances_")
    return path / "annotations" / f"instances_{split}.json", path / split


_TYPES: dict[str, Any] = {"id": int, "image_id": int, "category_id": int, "width": int, "height": int, "name": str,
                          "file_name": str}  # fmt: skip


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The annotation file {file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error}): give a COCO annotation file.") from error
    wanted = {
        "images": ("id", "file_name", "width", "height"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "bbox"),
    }
    for part, keys in wanted.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{file} is not a COCO annotation file: it has no list {part!r}.")
        for place, entry in enumerate(entries):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise DataError(f"{file} is not a COCO annotation file: {part}[{place}] has no {missing[0]!r}.")
            for key in set(keys) & set(_TYPES):
                if not isinstance(entry[key], _TYPES[key]) or (key in ("width", "height") and entry[key] < 1):
                    raise DataError(
                        f"{file} is not a COCO annotation file: {part}[{place}] has {entry[key]!r} as {key}."
                    )
    return content
