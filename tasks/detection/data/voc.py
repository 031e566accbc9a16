"""PASCAL VOC folders: an XML file of boxes for each image, and lists of images in ImageSets/Main."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.sources.folder import images_in
from simsiam_eval.sources.packed_texts import PackedTexts
from tasks.detection.data.boxes import BoxContext, check_places, count_repeated, reject_fractions, upright
from tasks.detection.data.dataset import OBJECT, DetectionDataset, LabeledImages
from tasks.detection.data.image_files import existing_images, known_sizes
from tasks.detection.data.issues import Issues
from tasks.detection.data.outlines import Outlines
from tasks.detection.data.voc_files import VocImage, image_paths, read_xml
from tasks.detection.data.voc_lists import image_names


def open_voc(
    folder: Path, options: Mapping[str, str], spec: str, role: str, classes: tuple[str, ...], masks: bool
) -> DetectionDataset:
    """The images of one list of a VOC folder; classes in alphabetical order, difficult objects marked.

    VOC's segmentations are images of their own and are not read, also with `masks`.

    Raises:
        DataError: a list, an annotation file or an image is missing or malformed.
    """
    names, notes = image_names(folder, options.get("split", ""), role, spec)
    notes += _unread(folder / "JPEGImages")
    parsed = [read_xml(folder / "Annotations" / f"{name}.xml", spec) for name in names]
    counts = Counter(obj.name for image in parsed for obj in image.objects)
    selected = classes or tuple(sorted(counts))
    excluded = {name: counts[name] for name in sorted(counts) if name not in selected}
    ids, issues = PackedTexts(names), Issues()
    paths = existing_images(PackedTexts(image_paths(folder / "JPEGImages", names)), spec)
    sizes = np.array([(image.width, image.height) for image in parsed], np.int32).reshape(-1, 2)
    sizes = known_sizes(sizes, paths, ids, issues)
    renamed = [row for row, image in enumerate(parsed) if _stem(image.file_name) not in ("", _stem(paths[row]))]
    issues.add("annotation file whose <filename> is another, not used", ids, renamed)
    objects = _objects(parsed, selected, folder, spec, ids, sizes, issues)
    images = LabeledImages(ids, False, paths, sizes, objects, Outlines())
    return DetectionDataset(spec, "voc", selected, images, excluded, issues=issues, notes=notes)


def _unread(folder: Path) -> tuple[str, ...]:
    """How many files of a folder are not images."""
    return tuple(f"{folder}: {note}." for note in images_in(folder)[1]) if folder.is_dir() else ()


def _stem(path: str) -> str:
    """The name of a file without folders, which may be Windows', and without ending."""
    return PureWindowsPath(path).stem


def _objects(
    parsed: list[VocImage],
    selected: tuple[str, ...],
    folder: Path,
    spec: str,
    ids: PackedTexts,
    sizes: NDArray[np.int32],
    issues: Issues,
) -> NDArray[np.void]:
    """The checked objects of the selected classes, OBJECT."""
    label_of = {name: label for label, name in enumerate(selected)}
    chosen = [
        (row, number, obj)
        for row, image in enumerate(parsed)
        for number, obj in enumerate(image.objects, start=1)
        if obj.name in label_of
    ]
    objects = np.zeros(len(chosen), OBJECT)
    objects["image"] = [row for row, _, _ in chosen]
    objects["label"] = [label_of[obj.name] for _, _, obj in chosen]
    objects["difficult"] = [obj.difficult == 1 for _, _, obj in chosen]
    objects["outline"] = -1
    context = BoxContext(
        spec,
        "xmin, ymin, xmax, ymax",
        ids,
        objects["image"],
        lambda index: f"object {chosen[index][1]} of {folder / 'Annotations' / ids[chosen[index][0]]}.xml",
        issues,
    )
    context.count("difficult missing, taken as 0", np.array([obj.difficult is None for _, _, obj in chosen], bool))
    context.count("difficult written as a word, read as 0 or 1", np.array([obj.word for _, _, obj in chosen], bool))
    boxes = _checked_boxes(np.array([obj.corners for _, _, obj in chosen], np.float64).reshape(-1, 4), context)
    check_places(boxes, sizes[objects["image"]], context)
    count_repeated(objects["label"], boxes, context)
    objects["box"], objects["area"] = boxes, boxes[:, 2] * boxes[:, 3]
    return objects


def _checked_boxes(corners: NDArray[np.float64], context: BoxContext) -> NDArray[np.float64]:
    """x, y, width, height (N,4) of VOC's inclusive corners (N,4), which count pixels from 1."""
    reject_fractions(corners, context)
    corners = upright(corners, context)
    at_zero = (corners[:, :2] >= 0) & (corners[:, :2] < 1)
    context.count("box that begins at 0, moved to 1, from which VOC counts pixels", np.any(at_zero, axis=1))
    corners[:, :2][at_zero] = 1
    return np.concatenate([corners[:, :2] - 1, corners[:, 2:] - corners[:, :2] + 1], axis=1)
