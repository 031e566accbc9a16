"""Unusual annotations: counted, reported, and kept or dropped as in detectron2."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few
from tasks.detection.data.dataset import Annotation, DetectionDataset, LabeledImage

_NO_SEGMENTATION = "box without a segmentation, dropped"


@dataclass
class DatasetReport:
    """Counts of a dataset, and the images in which something unusual was found.

    Attributes:
        images, boxes, classes: how many of each.
        classes_without_boxes: their names.
        excluded: number of boxes of each class that `--classes` excludes.
        issues: what is unusual and how it is handled -> image ids, one for each case.
    """

    images: int = 0
    boxes: int = 0
    classes: int = 0
    classes_without_boxes: list[str] = field(default_factory=list)
    excluded: dict[str, int] = field(default_factory=dict)
    issues: dict[str, list[str]] = field(default_factory=dict)

    def add(self, issue: str, image: LabeledImage) -> None:
        """Count one case."""
        self.issues.setdefault(issue, []).append(str(image.id))

    def count(self, data: DetectionDataset) -> None:
        """Fill in the counts."""
        used = {obj.label for image in data.images for obj in image.annotations}
        self.excluded = data.excluded
        self.images, self.classes = len(data.images), len(data.classes)
        self.boxes = sum(len(image.annotations) for image in data.images)
        self.classes_without_boxes = [name for label, name in enumerate(data.classes) if label not in used]

    def to_dict(self) -> dict[str, object]:
        """For the record: counts, and the first 20 images of each issue."""
        issues = {
            issue: {"count": len(ids), "images": list(dict.fromkeys(ids))[:20]} for issue, ids in self.issues.items()
        }
        return {
            "images": self.images,
            "boxes": self.boxes,
            "classes": self.classes,
            "classes_without_boxes": self.classes_without_boxes,
            "excluded": self.excluded,
            "issues": issues,
        }

    def sentences(self, role: str) -> list[str]:
        """For the terminal; `role` is train or test."""
        lines = [f"{role}: {self.images} images, {self.boxes} boxes, {self.classes} classes."]
        if self.classes_without_boxes:
            names = first_few(self.classes_without_boxes)
            lines.append(f"{role}: {len(self.classes_without_boxes)} classes without boxes ({names}).")
        if self.excluded:
            names = first_few(f"{name}: {count}" for name, count in self.excluded.items())
            lines.append(f"{role}: {sum(self.excluded.values())} boxes excluded by --classes ({names}).")
        for issue, ids in self.issues.items():
            lines.append(f"{role}: {len(ids)} x {issue} ({first_few(dict.fromkeys(ids))}).")
        return lines


def check_training_set(data: DetectionDataset, masks: bool) -> tuple[DetectionDataset, DatasetReport]:
    """The dataset as it is trained on: no crowd regions, zero-area boxes or empty images; boxes clipped to the image.

    A VOC box with xmin = xmax is one pixel wide, as VOC counts pixels, and is kept; so are difficult objects. With
    `masks`, boxes without a segmentation are dropped as well.

    Raises:
        DataError: no box is left.
    """
    report, usable = DatasetReport(), []
    paths: set[str] = set()
    for image in data.images:
        annotations = []
        path = os.path.abspath(image.path)
        if path in paths:
            report.add("image listed more than once", image)
        paths.add(path)
        for obj in image.annotations:
            clipped = _clipped(obj, image, report, data.kind)
            if clipped is not None and masks and obj.segmentation is None:
                report.add(_NO_SEGMENTATION, image)
            elif clipped is not None:
                annotations.append(clipped)
        if annotations:
            usable.append(replace(image, annotations=tuple(annotations)))
        else:
            report.add("image without usable boxes, dropped", image)
    if not usable and _NO_SEGMENTATION in report.issues:
        raise DataError(f"{data.spec} contains no segmentations; use --no-masks.")
    if not usable:
        raise DataError(f"{data.spec} contains no boxes to train on; add annotations or check --classes.")
    training_set = replace(data, images=tuple(usable))
    report.count(training_set)
    return training_set, report


def _clipped(obj: Annotation, image: LabeledImage, report: DatasetReport, kind: str) -> Annotation | None:
    """The object with its box clipped to the image; None where it is not trained on."""
    if obj.crowd:
        report.add("crowd region, dropped", image)
        return None
    x1, y1, x2, y2 = obj.corners
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height))
    # Backends flip and resize corners in float32, where the two sides of a thinner box can coincide.
    min_side = 4 * float(np.spacing(np.float32(max(image.width, image.height))))
    if right - left <= min_side or bottom - top <= min_side:
        zero_area = min(obj.box[2], obj.box[3]) <= min_side
        report.add(f"box {'with zero area' if zero_area else 'outside the image'}, dropped", image)
        return None
    if kind == "voc" and min(obj.box[2], obj.box[3]) <= 1:
        report.add("box with zero area (xmin = xmax or ymin = ymax), kept as one pixel wide", image)
    if _exceeds_image(obj, image):
        report.add("box partly outside the image, clipped", image)
        return replace(obj, box=(left, top, right - left, bottom - top))
    return obj


def _exceeds_image(obj: Annotation, image: LabeledImage) -> bool:
    x1, y1, x2, y2 = obj.corners
    rounding = 0.01  # COCO rounds boxes to two decimals, so that they may end this far beyond the edge
    return x1 < -rounding or y1 < -rounding or x2 > image.width + rounding or y2 > image.height + rounding


def check_test_set(data: DetectionDataset, masks: bool) -> DatasetReport:
    """What is unusual in a test set, whose annotations all stay as they are.

    Raises:
        DataError: no object is counted in the evaluation, or, with `masks`, a segmentation is missing.
    """
    report, objects = DatasetReport(), 0
    for image in data.images:
        for obj in image.annotations:
            objects += not (obj.crowd or obj.difficult)
            if masks and obj.segmentation is None:
                raise DataError(f"Image {image.id} of {data.spec} has a box without a segmentation; use --no-masks.")
            if obj.crowd:
                report.add("crowd region, ignored in evaluation", image)
            if obj.difficult:
                report.add("difficult object, ignored in evaluation", image)
            if data.kind == "voc" and 0 < min(obj.box[2], obj.box[3]) <= 1:
                report.add("box with zero area (xmin = xmax or ymin = ymax), kept as one pixel wide", image)
            elif min(obj.box[2], obj.box[3]) <= 0:
                report.add("box with zero area, always a missed object", image)
            elif _exceeds_image(obj, image):
                report.add("box partly outside the image, kept as annotated", image)
        if not image.annotations:
            report.add("image without boxes: every detection is a false positive", image)
    if not objects:
        raise DataError(f"{data.spec} contains no boxes to evaluate on; add annotations or check --classes.")
    report.count(data)
    return report


def add_training_images(train: DetectionDataset, test: DetectionDataset, report: DatasetReport) -> None:
    """Add to the test set's report the images, by their paths, that are also in the training set."""
    training_paths = {os.path.abspath(image.path) for image in train.images}
    for image in test.images:
        if os.path.abspath(image.path) in training_paths:
            report.add("image that is also in the training set", image)
