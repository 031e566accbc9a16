"""COCO JSON: images, annotations and categories in one file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import read_text
from simsiam_eval.sources.labels import canonical_name
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.wording import first_few
from tasks.detection.data.boxes import (
    BoxContext,
    check_places,
    checked_areas,
    count_repeated,
    reject_fractions,
    reject_other_forms,
    upright,
)
from tasks.detection.data.columns import Entries
from tasks.detection.data.dataset import OBJECT, DetectionDataset, LabeledImages
from tasks.detection.data.image_files import existing_images, known_sizes
from tasks.detection.data.issues import Issues
from tasks.detection.data.outline_checks import check_outlines
from tasks.detection.data.outlines import Outlines


def open_coco(
    path: Path, options: Mapping[str, str], spec: str, role: str, classes: tuple[str, ...], masks: bool
) -> DetectionDataset:
    """The images of one annotation file, in its order; classes in the order of their category ids.

    Raises:
        DataError: the file is missing or malformed, or its images are missing.
    """
    file, folder = _locate(path, options, spec, role)
    outlines, issues = Outlines(), Issues()
    content = _read(file, outlines)
    annotations = Entries(file, "annotations", "annotation", content)
    class_names = _class_names(Entries(file, "categories", "category", content), file)
    images, numbers = _images(Entries(file, "images", "image", content), folder, spec, outlines, issues)
    selected = classes or tuple(class_names.values())
    objects, named, excluded = _objects(annotations, numbers, class_names, selected, images.ids, issues)
    context = BoxContext(
        spec,
        "x, y, width, height",
        images.ids,
        objects["image"],
        lambda index: annotations.name(int(named[index])),
        issues,
    )
    sizes = images.sizes[objects["image"]]
    objects["box"] = _checked_boxes(objects["box"], sizes, context)
    check_outlines(objects, outlines, sizes, masks, context)

    def outline_area(index: int) -> float | None:
        row = int(objects["outline"][index])
        return outlines.area(row) if row >= 0 else None

    objects["area"] = checked_areas(objects["area"], objects["box"], outline_area, context)
    count_repeated(objects["label"], objects["box"], context)
    if not masks:
        objects["outline"], outlines = -1, Outlines()
    objects = objects[np.argsort(objects["image"], kind="stable")]
    return DetectionDataset(
        spec,
        "coco",
        selected,
        replace(images, objects=objects, outlines=outlines),
        excluded,
        {name: category for category, name in class_names.items()},
        issues,
    )


def _checked_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.int32], context: BoxContext) -> NDArray[np.float64]:
    """(N,4), with negative widths and heights turned round."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    reject_fractions(corners, context)
    turned = upright(corners, context)
    negative = (boxes[:, 2:] < 0).any(axis=1)
    boxes = boxes.copy()  # only these are computed from corners, which rounds
    boxes[negative] = np.concatenate([turned[:, :2], turned[:, 2:] - turned[:, :2]], axis=1)[negative]
    reject_other_forms(boxes, sizes, context)
    check_places(boxes, sizes, context)
    return boxes


def _class_names(categories: Entries, file: Path) -> dict[int, str]:
    """Category id -> name, by increasing id."""
    ids = categories.whole_numbers("id")
    names = [canonical_name(name.strip()) for name in categories.texts("name")]
    for values, what in ((ids, "id"), (names, "name")):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            same = [f"{number} {name!r}" for number, name, value in zip(ids, names, values, strict=True)
                    if value == repeated[0]]  # fmt: skip
            raise DataError(f"{file} has categories with the same {what} ({first_few(same)}); expected different ones.")
    return dict(sorted(zip(ids, names, strict=True)))


def _images(
    entries: Entries, folder: Path, spec: str, outlines: Outlines, issues: Issues
) -> tuple[LabeledImages, dict[int, int]]:
    """The images without objects, and image id -> row."""
    ids = entries.whole_numbers("id")
    rows = {number: row for row, number in enumerate(ids)}
    if len(rows) < len(ids):
        repeated = [str(number) for number, count in Counter(ids).items() if count > 1]
        raise DataError(f"{entries.file} has images with the same id ({first_few(repeated)}); expected different ones.")
    names = PackedTexts(map(str, ids))
    file_names = _with_slashes(entries.texts("file_name", "surrogateescape"), folder, names, issues)
    where = f"relative file names are below {folder}, unless coco:FILE.json#images=FOLDER names another folder"
    paths = existing_images(PackedTexts(str(folder / name) for name in file_names), spec, where)
    sizes = np.array([entries.sides("width"), entries.sides("height")], np.int32).T.reshape(-1, 2)
    sizes = known_sizes(sizes, paths, names, issues)
    return LabeledImages(names, True, paths, sizes, np.empty(0, OBJECT), outlines), rows


def _with_slashes(file_names: list[str], folder: Path, ids: Sequence[str], issues: Issues) -> list[str]:
    """The names with Windows' separators replaced by slashes, where there is no such file."""
    rows = [row for row, name in enumerate(file_names) if "\\" in name and not os.path.exists(folder / name)]
    for row in rows:
        file_names[row] = file_names[row].replace("\\", "/")
    issues.add("file_name with backslashes, read as slashes", ids, rows)
    return file_names


def _objects(
    annotations: Entries,
    numbers: Mapping[int, int],
    class_names: Mapping[int, str],
    selected: tuple[str, ...],
    ids: Sequence[str],
    issues: Issues,
) -> tuple[NDArray[np.void], NDArray[np.int64], dict[str, int]]:
    """The objects of the selected classes in the order of the file, the index of each, and excluded class -> boxes."""
    image_ids, categories = annotations.whole_numbers("image_id"), annotations.whole_numbers("category_id")
    for key, found, known in (("image_id", image_ids, numbers), ("category_id", categories, class_names)):
        unknown = next((index for index, number in enumerate(found) if number not in known), None)
        if unknown is not None:
            listed = f"one of the file's ({first_few(map(str, known)) or 'none'})"
            annotations.reject(unknown, key, listed)
    label_of = {number: selected.index(name) if name in selected else -1 for number, name in class_names.items()}
    objects = np.empty(len(annotations), OBJECT)
    objects["image"] = [numbers[number] for number in image_ids]
    objects["label"] = [label_of[number] for number in categories]
    objects["box"] = annotations.boxes("bbox")
    objects["area"] = annotations.numbers("area")
    objects["outline"] = [entry.get("segmentation", -1) for entry in annotations.values]
    objects["crowd"], without_mark = annotations.flags("iscrowd")
    objects["difficult"], _ = annotations.flags("ignore")
    named = np.flatnonzero(objects["label"] >= 0)
    counts = Counter(class_names[number] for number in categories)
    excluded = {name: count for name, count in counts.items() if name not in selected}
    rows = objects["image"]
    issues.add("iscrowd missing, taken as 0", ids, rows[named][without_mark[named]])
    repeated = _repeated([entry.get("id") for entry in annotations.values])
    issues.add("annotation id used more than once, not used", ids, rows[repeated])
    return objects[named], named, excluded


def _repeated(values: Sequence[Any]) -> list[int]:
    """Indices of the values that are the same as an earlier one; without a value there is none."""
    seen: set[Any] = set()
    repeated = []
    for index, value in enumerate(values):
        if isinstance(value, int | str):
            if value in seen:
                repeated.append(index)
            seen.add(value)
    return repeated


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


def _read(file: Path, outlines: Outlines) -> Any:
    """The file's content, with the row in `outlines` in place of each segmentation.

    Segmentations are nearly all of a file; packed while it is read, they never exist as Python objects together.
    """

    def pack(entry: dict[str, Any]) -> dict[str, Any]:
        if "segmentation" in entry and "image_id" in entry:
            try:
                entry["segmentation"] = outlines.add(entry["segmentation"])
            except ValueError as error:
                raise DataError(f"annotation {entry.get('id')} of {file} has {error}.") from error
        return entry

    try:
        return json.loads(read_text(file), object_hook=pack)
    except OSError as error:
        raise DataError(f"The annotation file {file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON ({error}); expected a COCO annotation file.") from error
