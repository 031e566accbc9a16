"""COCO JSON: images, annotations and categories in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import read_text
from simsiam_eval.wording import first_few
from tasks.detection.data.dataset import Annotation, DetectionDataset, LabeledImage, Segmentation

_MAX_COORDINATE = 1e12  # of areas too


def open_coco(
    path: Path, options: Mapping[str, str], spec: str, role: str, classes: tuple[str, ...]
) -> DetectionDataset:
    """The images of one annotation file, in its order; classes in the order of their category ids.

    Raises:
        DataError: the file is missing or malformed.
    """
    file, folder = _locate(path, options, spec, role)
    content = _read(file)
    class_names = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
    if len(set(class_names.values())) < len(class_names):
        raise DataError(f"{file} has two categories with the same name; category names must be unique.")
    selected = classes or tuple(class_names.values())
    label_of = {category: selected.index(name) for category, name in class_names.items() if name in selected}
    annotations: dict[int, list[Annotation]] = {entry["id"]: [] for entry in content["images"]}
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in content["images"]}
    excluded: dict[str, int] = {}
    if len(annotations) < len(content["images"]):
        raise DataError(f"{file} has two images with the same id; image ids must be unique.")
    for entry in content["annotations"]:
        where = f"annotation {entry.get('id')} of {file}"
        image, category = entry["image_id"], entry["category_id"]
        if image not in annotations:
            raise DataError(f"{where} refers to image {image}, which is not in the file.")
        if category not in class_names:
            known = first_few(map(str, class_names))
            raise DataError(f"{where} refers to category {category}, which is not in the file; it has: {known}.")
        if category not in label_of:
            excluded[class_names[category]] = excluded.get(class_names[category], 0) + 1
        else:
            annotations[image].append(_annotation(entry, label_of[category], sizes[image], where))
    images = tuple(
        LabeledImage(
            entry["id"],
            folder / entry["file_name"],
            entry["width"],
            entry["height"],
            tuple(annotations[entry["id"]]),
        )
        for entry in content["images"]
    )
    category_ids = {name: category for category, name in class_names.items()}
    return DetectionDataset(spec, "coco", selected, images, excluded, category_ids)


def _annotation(entry: dict[str, Any], label: int, size: tuple[int, int], where: str) -> Annotation:
    box, crowd, area = entry["bbox"], entry.get("iscrowd"), entry.get("area")
    if not (isinstance(box, list) and len(box) == 4 and _all_numbers(box)):
        raise DataError(f"{where} has bbox {box!r}; expected four numbers: x, y, width, height.")
    if crowd not in (None, 0, 1):
        raise DataError(f"{where} has iscrowd {crowd!r}; expected 0 or 1.")
    if area is not None and not _all_numbers([area]):
        raise DataError(f"{where} has area {area!r}; expected a number.")
    return Annotation(
        box=(box[0], box[1], box[2], box[3]),
        label=label,
        crowd=bool(crowd),
        area=float(max(box[2], 0) * max(box[3], 0) if area is None else area),
        segmentation=_segmentation(entry.get("segmentation"), size, where),
    )


def _all_numbers(values: list[Any]) -> bool:
    # Compared, not converted: a JSON integer can be too large for a float. NaN fails the comparison too.
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < _MAX_COORDINATE for v in values)


def _segmentation(value: Any, size: tuple[int, int], where: str) -> Segmentation | None:
    """A run-length encoding, or the polygons with at least three corners; None without any."""
    if isinstance(value, dict):
        if not (value.get("size") == list(size) and _is_run_length_mask(value)):
            raise DataError(
                f"{where} has an invalid segmentation; expected a run-length encoding of {size[0]} x {size[1]} pixels."
            )
        return cast("Segmentation", value)
    if not isinstance(value or [], list):
        raise DataError(f"{where} has an invalid segmentation; expected polygons or a run-length encoding.")
    polygons = [item for item in value or () if isinstance(item, list) and len(item) >= 6 and len(item) % 2 == 0]
    if not all(map(_all_numbers, polygons)):
        raise DataError(f"{where} has a polygon with a coordinate that is not a number.")
    return polygons or None


def _is_run_length_mask(value: dict[str, Any]) -> bool:
    """Whether the runs cover the mask exactly; pycocotools itself accepts a text that ends early."""
    counts, (height, width) = value.get("counts"), value["size"]
    if isinstance(counts, list):
        return all(isinstance(run, int) and run >= 0 for run in counts) and sum(counts) == height * width
    from pycocotools import mask

    try:
        return mask.decode(value).shape == (height, width)
    except (ValueError, TypeError):
        return False


def _locate(path: Path, options: Mapping[str, str], spec: str, role: str) -> tuple[Path, Path]:
    """The annotation file and the folder of the images."""
    if path.is_file():
        return path, Path(options["images"]).expanduser() if "images" in options else path.parent
    split = options.get("split")
    if not split:
        files = sorted((path / "annotations").glob(f"instances_{ {'train': 'train', 'test': 'val'}[role] }*.json"))
        if len(files) != 1:
            splits = first_few(
                file.stem.removeprefix("instances_") for file in (path / "annotations").glob("instances_*.json")
            )
            raise DataError(f"{spec}: name the split, such as #train2017; available: {splits or 'none'}.")
        split = files[0].stem.removeprefix("instances_")
    return path / "annotations" / f"instances_{split}.json", path / split


_REQUIRED_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox"),
}
_TYPES: dict[str, type] = {
    "id": int,
    "image_id": int,
    "category_id": int,
    "width": int,
    "height": int,
    "name": str,
    "file_name": str,
}


def _read(file: Path) -> dict[str, Any]:
    """The file's content, with the required keys of every entry and their types checked."""
    try:
        content = json.loads(read_text(file))
    except OSError as error:
        raise DataError(f"The annotation file {file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON ({error}); expected a COCO annotation file.") from error
    malformed = f"{file} is not a COCO annotation file"
    for part, keys in _REQUIRED_KEYS.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{malformed}: it has no list {part!r}.")
        for index, entry in enumerate(entries):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise DataError(f"{malformed}: {part}[{index}] has no {missing[0]!r}.")
            for key in set(keys) & set(_TYPES):
                if not isinstance(entry[key], _TYPES[key]) or (key in ("width", "height") and entry[key] < 1):
                    raise DataError(f"{malformed}: {part}[{index}] has an invalid {key} ({entry[key]!r}).")
    return cast("dict[str, Any]", content)
