"""PASCAL VOC's average precision: 11 points (2007), or the area under the curve (since 2010)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections

THRESHOLDS = tuple(percent / 100.0 for percent in range(50, 100, 5))


def voc_average_precision(
    data: DetectionDataset, detections: Sequence[Detections], rule: str
) -> tuple[np.ndarray, list[int]]:
    """AP (classes, 10) at IoU .50, .55, ... .95, NaN for a class without objects, and the number of objects per class.

    Scores are rounded to three decimals and boxes to one, as in the VOC result files behind published numbers. An overlap
    must exceed the threshold, and only the object with the largest overlap counts. Difficult objects (and COCO's crowd
    regions) are neither missed nor wrong to detect.

    Args:
        data: the test set.
        detections: one entry for each image, in the order of the dataset.
        rule: voc07 (11 points) or voc (area).

    >>> import numpy as np
    >>> from tasks.detection.data.dataset import Annotation, LabeledImage, LabeledImages
    >>> image = LabeledImage("a", "a.jpg", 100, 100, (Annotation((0, 0, 10, 10), 0), Annotation((50, 50, 10, 10), 0)))
    >>> detected = Detections(np.float32([[0, 0, 10, 10]]), np.float32([0.9]), np.array([0]))
    >>> data = DetectionDataset("example", "voc", ("cell",), LabeledImages.packed([image]))
    >>> ap, _ = voc_average_precision(data, [detected], "voc")
    >>> float(ap[0, 0])
    0.5
    """
    precision = np.full((len(data.classes), len(THRESHOLDS)), np.nan)
    counts = []
    for label in range(len(data.classes)):
        boxes, difficult = _objects(data, label)
        counts.append(int(sum((~flags).sum() for flags in difficult)))
        if counts[-1]:
            matches = _best_matches(*_sorted_detections(detections, label), boxes)
            for column, threshold in enumerate(THRESHOLDS):
                true_positive, false_positive = _judge(matches, difficult, threshold)
                precision[label, column] = _average_precision(true_positive, false_positive, counts[-1], rule)
    return precision, counts


def _objects(data: DetectionDataset, label: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each image the boxes (K,4) of a class as VOC's inclusive corners, and which of them are difficult (K,)."""
    objects = data.images.objects[data.images.objects["label"] == label]
    corners = objects["box"] + np.array([1.0, 1.0, 0.0, 0.0])
    corners[:, 2:] += objects["box"][:, :2]
    ends = np.searchsorted(objects["image"], np.arange(1, len(data.images)))
    return np.split(corners, ends), np.split(objects["difficult"] | objects["crowd"], ends)


def _sorted_detections(detections: Sequence[Detections], label: int) -> tuple[np.ndarray, np.ndarray]:
    """The detections of a class by falling score: image index (K,) and box (K,4), rounded as in result files."""
    images, scores, boxes = [], [], []
    shift = np.array([1, 1, 0, 0], dtype=np.float32)
    for image, detected in enumerate(detections):
        for row in np.flatnonzero(detected.labels == label):
            images.append(image)
            scores.append(float(f"{float(detected.scores[row]):.3f}"))
            boxes.append([float(f"{float(value):.1f}") for value in detected.boxes[row].astype(np.float32) + shift])
    order = np.argsort(-np.array(scores, dtype=np.float64))  # not stable, as in the common evaluators
    return np.array(images, dtype=np.int64)[order], np.array(boxes, dtype=np.float64).reshape(-1, 4)[order]


@dataclass(frozen=True)
class _Matches:
    """For each detection (K,) its image, its largest IoU with an object there (-inf without objects), and that object."""

    images: np.ndarray
    ious: np.ndarray
    objects: np.ndarray


def _best_matches(images: np.ndarray, detected: np.ndarray, boxes: list[np.ndarray]) -> _Matches:
    ious, objects = np.full(len(detected), -np.inf), np.zeros(len(detected), dtype=np.int64)
    for row, (image, box) in enumerate(zip(images, detected, strict=True)):
        truth = boxes[image]
        if len(truth):
            low, high = np.maximum(truth[:, :2], box[:2]), np.minimum(truth[:, 2:], box[2:])
            sides = np.maximum(high - low + 1.0, 0.0)
            intersection = sides[:, 0] * sides[:, 1]
            box_area = (box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0)
            truth_area = (truth[:, 2] - truth[:, 0] + 1.0) * (truth[:, 3] - truth[:, 1] + 1.0)
            iou = intersection / (box_area + truth_area - intersection)
            objects[row] = int(np.argmax(iou))
            ious[row] = iou[objects[row]]
    return _Matches(images, ious, objects)


def _judge(matches: _Matches, difficult: list[np.ndarray], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (K,), 0 or 1: the first detection of an object is true, further ones are false."""
    true_positive, false_positive = np.zeros(len(matches.images)), np.zeros(len(matches.images))
    detected: set[tuple[int, int]] = set()
    for row, match in enumerate(zip(matches.images.tolist(), matches.objects.tolist(), strict=True)):
        image, obj = match
        if not matches.ious[row] > threshold:
            false_positive[row] = 1.0
        elif not difficult[image][obj]:
            (false_positive if match in detected else true_positive)[row] = 1.0
            detected.add(match)
    return true_positive, false_positive


def _average_precision(true_positive: np.ndarray, false_positive: np.ndarray, objects: int, rule: str) -> float:
    true_positive, false_positive = np.cumsum(true_positive), np.cumsum(false_positive)
    recall = true_positive / float(objects)
    precision = true_positive / np.maximum(true_positive + false_positive, np.finfo(np.float64).eps)
    if rule == "voc07":
        at_points = [precision[recall >= point] for point in np.arange(0.0, 1.1, 0.1)]
        return float(sum((values.max() if len(values) else 0.0) / 11.0 for values in at_points))
    recall = np.concatenate(([0.0], recall, [1.0]))
    # The envelope: at each recall the best precision at that or any higher recall.
    precision = np.maximum.accumulate(np.concatenate(([0.0], precision, [0.0]))[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision[1:]))
