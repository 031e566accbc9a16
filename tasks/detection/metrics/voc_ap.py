"""PASCAL VOC's average precision, by the 11-point rule of 2007 and by the area rule of the years after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.detection.backends.predictions import Detections
from tasks.detection.data.dataset import DetectionSet

THRESHOLDS = tuple(percent / 100.0 for percent in range(50, 100, 5))


def voc_average_precision(
    data: DetectionSet, detections: Sequence[Detections], rule: str
) -> tuple[np.ndarray, list[int]]:
    """AP (classes, 10), at IoU .50, .55, ... .95, NaN for a class that is not in `data`; and each class's objects.

    `detections` has one entry for each image, in the set's order; `rule` is voc07 (11 points) or voc (area). Scores count
    to three decimals and boxes to one, as in the VOC result files that published numbers went through; an overlap
    must exceed the threshold, and the best overlapped object decides. Difficult objects (and COCO's crowds) count neither
    way.

    >>> import numpy as np
    >>> from tasks.detection.data.dataset import Annotation, LabeledImage
    >>> image = LabeledImage("a", "a.jpg", 100, 100, (Annotation((0, 0, 10, 10), 0), Annotation((50, 50, 10, 10), 0)))
    >>> found = Detections(np.float32([[0, 0, 10, 10]]), np.float32([0.9]), np.array([0]))
    >>> ap, _ = voc_average_precision(DetectionSet("made", "voc", ("cell",), (image,)), [found], "voc")
    >>> float(ap[0, 0])
    0.5
    """
    asked = [_objects(data, label) for label in range(len(data.classes))]
    rows = [_result_lines(detections, label) for label in range(len(data.classes))]
    precision = np.full((len(data.classes), len(THRESHOLDS)), np.nan)
    counts = []
    for label, (boxes, difficult) in enumerate(asked):
        counts.append(int(sum((~one).sum() for one in difficult)))
        if counts[-1]:
            matched = _best_overlaps(*rows[label], boxes)
            for place, threshold in enumerate(THRESHOLDS):
                right, wrong = _judge(*matched, difficult, threshold)
                precision[label, place] = _average_precision(right, wrong, counts[-1], rule)
    return precision, counts


def _objects(data: DetectionSet, label: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each image the boxes (K,4) of a class as corners that belong to the box, and which of them are difficult."""
    boxes, difficult = [], []
    for image in data.images:
        here = [one for one in image.annotations if one.label == label]
        corners = np.array([one.corners for one in here], dtype=np.float64).reshape(-1, 4)
        boxes.append(corners + np.array([1.0, 1.0, 0.0, 0.0]))
        difficult.append(np.array([one.difficult or one.crowd for one in here], dtype=bool))
    return boxes, difficult


def _result_lines(detections: Sequence[Detections], label: int) -> tuple[np.ndarray, np.ndarray]:
    """A class's detections by falling score: the image of each, and its box (K,4), rounded as result files are."""
    places, scores, boxes = [], [], []
    shift = np.array([1, 1, 0, 0], dtype=np.float32)
    for place, found in enumerate(detections):
        for row in np.flatnonzero(found.labels == label):
            places.append(place)
            scores.append(float(f"{float(found.scores[row]):.3f}"))
            boxes.append([float(f"{float(value):.1f}") for value in found.boxes[row].astype(np.float32) + shift])
    order = np.argsort(-np.array(scores, dtype=np.float64))  # not stable: the field's evaluators are not either
    return np.array(places, dtype=np.int64)[order], np.array(boxes, dtype=np.float64).reshape(-1, 4)[order]


def _best_overlaps(
    places: np.ndarray, found: np.ndarray, boxes: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each detection its image, its largest IoU with an object there (-inf where there is none), and which one."""
    overlap, best = np.full(len(found), -np.inf), np.zeros(len(found), dtype=np.int64)
    for row, (place, box) in enumerate(zip(places, found, strict=True)):
        here = boxes[place]
        if len(here):
            low, high = np.maximum(here[:, :2], box[:2]), np.minimum(here[:, 2:], box[2:])
            sides = np.maximum(high - low + 1.0, 0.0)
            shared = sides[:, 0] * sides[:, 1]
            own = (box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0)
            theirs = (here[:, 2] - here[:, 0] + 1.0) * (here[:, 3] - here[:, 1] + 1.0)
            ratio = shared / (own + theirs - shared)
            best[row] = int(np.argmax(ratio))
            overlap[row] = ratio[best[row]]
    return places, overlap, best


def _judge(
    places: np.ndarray, overlap: np.ndarray, best: np.ndarray, difficult: list[np.ndarray], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right and which are wrong; the first to find an object is right, the others are wrong."""
    right, wrong = np.zeros(len(places)), np.zeros(len(places))
    taken: set[tuple[int, int]] = set()
    for row, (place, one) in enumerate(zip(places.tolist(), best.tolist(), strict=True)):
        if not overlap[row] > threshold:
            wrong[row] = 1.0
        elif not difficult[place][one]:
            (wrong if (place, one) in taken else right)[row] = 1.0
            taken.add((place, one))
    return right, wrong


def _average_precision(right: np.ndarray, wrong: np.ndarray, objects: int, rule: str) -> float:
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    recall = right / float(objects)
    precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
    if rule == "voc07":
        reached = [precision[recall >= point] for point in np.arange(0.0, 1.1, 0.1)]
        return float(sum((one.max() if len(one) else 0.0) / 11.0 for one in reached))
    recall = np.concatenate(([0.0], recall, [1.0]))
    # The envelope: at each recall the best precision at that or any higher recall.
    precision = np.maximum.accumulate(np.concatenate(([0.0], precision, [0.0]))[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision[1:]))
