"""Unusual annotations: counted, reported, and kept or dropped as in detectron2."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few
from tasks.detection.data.dataset import DetectionDataset, LabeledImages
from tasks.detection.data.issues import Issues

_NO_SEGMENTATION = "box without a segmentation, dropped"
_ZERO_AREA = "box with zero area (xmin = xmax or ymin = ymax), kept as one pixel wide"
_ROUNDING = 0.01  # COCO rounds boxes to two decimals, so that they may end this far beyond the edge


@dataclass
class DatasetReport:
    """Counts of a dataset, and what is unusual in it.

    Attributes:
        images, boxes, classes: how many of each.
        classes_without_boxes: their names.
        excluded: number of boxes of each class that `--classes` excludes.
        issues: what is unusual and how it is handled, with the images in which it was found.
        notes: sentences about the dataset as a whole.
    """

    images: int = 0
    boxes: int = 0
    classes: int = 0
    classes_without_boxes: list[str] = field(default_factory=list)
    excluded: dict[str, int] = field(default_factory=dict)
    issues: Issues = field(default_factory=Issues)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def begun(cls, data: DetectionDataset) -> DatasetReport:
        """With what was corrected when the annotations were read."""
        report = cls(notes=[*data.notes, *_similar_names(data.classes)])
        report.issues.update_counts(data.issues)
        return report

    def count(self, data: DetectionDataset) -> None:
        """Fill in the counts."""
        counts = data.boxes_per_class()
        self.excluded = data.excluded
        self.images, self.classes, self.boxes = len(data.images), len(data.classes), sum(counts)
        self.classes_without_boxes = [name for name, boxes in zip(data.classes, counts, strict=True) if not boxes]

    def to_dict(self) -> dict[str, object]:
        """For the record: counts, and the first images of each issue."""
        return {
            "images": self.images,
            "boxes": self.boxes,
            "classes": self.classes,
            "classes_without_boxes": self.classes_without_boxes,
            "excluded": self.excluded,
            "issues": self.issues.to_dict(),
            "notes": self.notes,
        }

    def sentences(self, role: str) -> list[str]:
        """For the terminal; `role` is train or test."""
        lines = [f"{self.images} images, {self.boxes} boxes, {self.classes} classes."]
        if self.classes_without_boxes:
            names = first_few(self.classes_without_boxes)
            lines.append(f"{len(self.classes_without_boxes)} classes without boxes ({names}).")
        if self.excluded:
            names = first_few(f"{name}: {count}" for name, count in self.excluded.items())
            lines.append(f"{sum(self.excluded.values())} boxes excluded by --classes ({names}).")
        lines += [f"{sentence}." for sentence in self.issues.sentences()]
        return [f"{role}: {line}" for line in [*lines, *self.notes]]


def _similar_names(classes: tuple[str, ...]) -> list[str]:
    """A note on class names that are equal but for case and spaces."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    similar = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    if not similar:
        return []
    return [f"Class names that differ only in case or spaces are kept apart: {first_few(similar)}."]


def check_training_set(data: DetectionDataset, masks: bool) -> tuple[DetectionDataset, DatasetReport]:
    """The dataset as it is trained on: no crowd regions, zero-area boxes or empty images; boxes clipped to the image.

    A VOC box with xmin = xmax is one pixel wide, as VOC counts pixels, and is kept; so are VOC's difficult objects. COCO's
    objects marked `ignore` are dropped. With `masks`, boxes without a segmentation are dropped as well.

    Raises:
        DataError: no box is left.
    """
    report, images = DatasetReport.begun(data), data.images
    _add_repeated_images(images, report)
    objects = images.objects
    kept = np.ones(len(objects), bool)

    def count(issue: str, flags: NDArray[np.bool_], drop: bool = False) -> None:
        report.issues.add(issue, images.ids, objects["image"][flags & kept])
        if drop:
            kept[flags] = False

    count("crowd region, dropped", objects["crowd"], drop=True)
    if data.kind == "coco":
        count("object marked ignore, dropped", objects["difficult"], drop=True)
    clipped, min_side = _clipped(images)
    small = np.any(clipped[:, 2:] <= min_side[:, None], axis=1)
    zero = np.any(objects["box"][:, 2:] <= min_side[:, None], axis=1)
    count("box with zero area, dropped", small & zero, drop=True)
    count("box outside the image, dropped", small & ~zero, drop=True)
    if data.kind == "voc":
        count(_ZERO_AREA, _one_pixel(objects))
    exceeds = _exceeds_image(images)
    count("box partly outside the image, clipped", exceeds)
    if masks:
        count(_NO_SEGMENTATION, objects["outline"] < 0, drop=True)
    objects = objects.copy()
    objects["box"][exceeds] = clipped[exceeds]
    objects = objects[kept]
    usable = np.unique(objects["image"])
    unused = np.setdiff1d(np.arange(len(images)), usable)
    report.issues.add("image without usable boxes, dropped", images.ids, unused)
    if not len(usable) and _NO_SEGMENTATION in report.issues:
        raise DataError(f"{data.spec} contains no segmentations; use --no-masks.")
    if not len(usable):
        raise DataError(f"{data.spec} contains no boxes to train on{_reasons(report, 'dropped')}.")
    training_set = replace(data, images=images.with_objects(objects).take(usable))
    report.count(training_set)
    return training_set, report


def _reasons(report: DatasetReport, what: str) -> str:
    """Why no box is left, and what to do."""
    found = [f"{issue.count} x {name}" for name, issue in report.issues.items()
             if name.endswith(f", {what}") and not name.startswith("image ")]  # fmt: skip
    return f" ({'; '.join(found)})" if found else "; add annotations or check --classes"


def _clipped(images: LabeledImages) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (N,4) clipped to their images, and the side (N,) up to which a box is too thin.

    Backends flip and resize corners in float32, where the two sides of a thinner box can coincide.
    """
    boxes, sizes = images.objects["box"], images.object_sizes()
    low = np.maximum(boxes[:, :2], 0.0)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], sizes)
    min_side = 4 * np.spacing(sizes.max(axis=1, initial=0).astype(np.float32)).astype(np.float64)
    return np.concatenate([low, high - low], axis=1), min_side


def _one_pixel(objects: NDArray[np.void]) -> NDArray[np.bool_]:
    """(N,) bool, VOC's boxes with xmin = xmax or ymin = ymax."""
    shortest = objects["box"][:, 2:].min(axis=1)
    return (shortest > 0) & (shortest <= 1)


def _exceeds_image(images: LabeledImages) -> NDArray[np.bool_]:
    """(N,) bool, boxes that are partly or wholly outside their images."""
    boxes = images.objects["box"]
    high = boxes[:, :2] + boxes[:, 2:]
    return ((boxes[:, :2] < -_ROUNDING) | (high > images.object_sizes() + _ROUNDING)).any(axis=1)


def _add_repeated_images(images: LabeledImages, report: DatasetReport) -> None:
    first: set[str] = set()
    repeated = []
    for row, path in enumerate(map(os.path.abspath, images.paths)):
        if path in first:
            repeated.append(row)
        first.add(path)
    report.issues.add("image listed more than once", images.ids, repeated)


def check_test_set(data: DetectionDataset, masks: bool) -> DatasetReport:
    """What is unusual in a test set, whose annotations all stay as they are.

    Raises:
        DataError: no object is counted in the evaluation, or, with `masks`, a segmentation is missing.
    """
    report, images, objects = DatasetReport.begun(data), data.images, data.images.objects
    without = objects["outline"] < 0
    if masks and without.any():
        image = images.id(int(objects["image"][np.argmax(without)]))
        raise DataError(f"Image {image} of {data.spec} has a box without a segmentation; use --no-masks.")
    _add_repeated_images(images, report)
    one_pixel = _one_pixel(objects) & (data.kind == "voc")
    zero = (objects["box"][:, 2:] <= 0).any(axis=1)
    clipped, _ = _clipped(images)
    outside = (clipped[:, 2:] <= 0).any(axis=1) & ~zero
    difficult = f"{'difficult object' if data.kind == 'voc' else 'object marked ignore'}, ignored in evaluation"
    for issue, flags in (
        ("crowd region, ignored in evaluation", objects["crowd"]),
        (difficult, objects["difficult"]),
        (_ZERO_AREA, one_pixel),
        ("box with zero area, always a missed object", zero),
        ("box outside the image, always a missed object", outside),
        ("box partly outside the image, kept as annotated", _exceeds_image(images) & ~one_pixel & ~zero & ~outside),
    ):
        report.issues.add(issue, images.ids, objects["image"][flags])
    empty = np.setdiff1d(np.arange(len(images)), objects["image"])
    report.issues.add("image without boxes: every detection is a false positive", images.ids, empty)
    if not (~(objects["crowd"] | objects["difficult"])).any():
        raise DataError(f"{data.spec} contains no boxes to evaluate on{_reasons(report, 'ignored in evaluation')}.")
    report.count(data)
    return report


def add_training_images(train: DetectionDataset, test: DetectionDataset, report: DatasetReport) -> None:
    """Add to the test set's report the images, by their paths, that are also in the training set."""
    training_paths = set(map(os.path.abspath, train.images.paths))
    shared = [row for row, path in enumerate(test.images.paths) if os.path.abspath(path) in training_paths]
    report.issues.add("image that is also in the training set", test.images.ids, shared)
