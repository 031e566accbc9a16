"""COCO JSON: images, annotations and categories in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simsiam_eval.encoders.families import some
from simsiam_eval.errors import DataError
from tasks.detection.data.dataset import Annotation, DetectionSet, LabeledImage

_LARGEST = 1e12  # of coordinates and areas


def open_coco(path: Path, options: Mapping[str, str], spec: str, role: str, classes: tuple[str, ...]) -> DetectionSet:
    """The images of one annotation file, in its order; classes in the order of their ids.

    Raises:
        DataError: the file is missing or of the wrong form.
    """
    file, folder = _files(path, options, spec, role)
    content = _read(file)
    names = {one["id"]: one["name"] for one in sorted(content["categories"], key=lambda one: one["id"])}
    if len(set(names.values())) < len(names):
        raise DataError(f"{file} has two categories of one name: give each its own.")
    known = classes or tuple(names.values())
    number = {category: known.index(name) for category, name in names.items() if name in known}
    objects: dict[Any, list[Annotation]] = {one["id"]: [] for one in content["images"]}
    sizes = {one["id"]: (one["height"], one["width"]) for one in content["images"]}
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
            size = sizes[one["image_id"]]
            objects[one["image_id"]].append(_annotation(one, number[one["category_id"]], size, where))
    images = tuple(
        LabeledImage(one["id"], folder / one["file_name"], one["width"], one["height"], tuple(objects[one["id"]]))
        for one in content["images"]
    )
    return DetectionSet(spec, "coco", known, images, left_out, {name: number for number, name in names.items()})


def _annotation(one: dict[str, Any], label: int, size: tuple[int, int], where: str) -> Annotation:
    box, crowd, area = one["bbox"], one.get("iscrowd"), one.get("area")
    if not (isinstance(box, list) and len(box) == 4 and _are_numbers(box)):
        raise DataError(f"{where} has the bbox {box!r}, not four numbers x, y, width, height.")
    if crowd not in (None, 0, 1):
        raise DataError(f"{where} has the iscrowd {crowd!r}, not 0 or 1.")
    if area is not None and not _are_numbers([area]):
        raise DataError(f"{where} has the area {area!r}, which is no number.")
    return Annotation(
        box=(box[0], box[1], box[2], box[3]),
        label=label,
        crowd=bool(crowd),
        area=float(max(box[2], 0) * max(box[3], 0) if area is None else area),
        segmentation=_segmentation(one.get("segmentation"), size, where),
    )


def _are_numbers(values: list[Any]) -> bool:
    # Compared, not converted: a whole number of JSON can be too large for a float. NaN is not below anything.
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < _LARGEST for v in values)


def _segmentation(given: Any, size: tuple[int, int], where: str) -> Any:
    """RLE, or the polygons that have three corners and more; None where there are none."""
    if isinstance(given, dict):
        if not (given.get("size") == list(size) and _is_mask(given)):
            raise DataError(
                f"{where} has a segmentation that is no run-length encoding of {size[0]} x {size[1]} pixels."
            )
        return given
    if not isinstance(given or [], list):
        raise DataError(f"{where} has a segmentation that is neither polygons nor a run-length encoding.")
    polygons = [one for one in given or () if isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0]
    if not all(map(_are_numbers, polygons)):
        raise DataError(f"{where} has a polygon with a coordinate that is no number.")
    return polygons or None


def _is_mask(encoded: dict[str, Any]) -> bool:
    """Whether a run-length encoding is of its size; pycocotools takes a text that ends early."""
    counts, (height, width) = encoded.get("counts"), encoded["size"]
    if isinstance(counts, list):
        return all(isinstance(one, int) and one >= 0 for one in counts) and sum(counts) == height * width
    from pycocotools import mask

    try:
        return mask.decode(encoded).shape == (height, width)
    except (ValueError, TypeError):
        return False


def _files(path: Path, options: Mapping[str, str], spec: str, role: str) -> tuple[Path, Path]:
    """The annotation file and the folder of the images."""
    if path.is_file():
        return path, Path(options["images"]).expanduser() if "images" in options else path.parent
    split = options.get("split")
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
