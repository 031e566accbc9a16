"""COCO's average precision, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.detection.backends.predictions import Detections
from tasks.detection.data.dataset import DetectionSet

_STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def coco_average_precision(
    data: DetectionSet, detections: Sequence[Detections], what: str
) -> tuple[dict[str, float], np.ndarray]:
    """COCO's six numbers, as fractions, NaN for a size that there is not; and AP (classes,), NaN for an absent class.

    `detections` has one entry for each image, in the set's order; `what` is bbox or segm.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Evaluator(COCOeval):  # type: ignore[misc]
        def _prepare(self) -> None:
            """A difficult object is neither asked for nor wrong to find; pycocotools knows that of crowds alone."""
            super()._prepare()
            for objects in self._gts.values():
                for one in objects:
                    one["ignore"] = one["ignore"] or one["difficult"]

    numbers = _image_numbers(data)
    truth = COCO()
    truth.dataset = _ground_truth(data, numbers)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = _results(detections, numbers, what)
        if results:
            found = truth.loadRes(results)
        else:  # which loadRes cannot read
            found = COCO()
            found.dataset = truth.dataset | {"annotations": []}
            found.createIndex()
        evaluator = Evaluator(truth, found, what)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = {name: float(value) for name, value in zip(_STATS, evaluator.stats, strict=False)}
    # (thresholds, recalls, classes, areas, maximal detections): all areas, 100 detections; -1 is "no such objects".
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    by_class = np.full(precision.shape[2], np.nan)
    for label in range(precision.shape[2]):
        valid = precision[:, :, label][precision[:, :, label] > -1]
        if valid.size:
            by_class[label] = valid.mean()
    return {name: np.nan if value == -1 else value for name, value in stats.items()}, by_class


def _image_numbers(data: DetectionSet) -> list[int]:
    """The image's number for pycocotools, which sorts by it: of equal scores the lower number's comes first."""
    if not all(isinstance(image.id, int) for image in data.images):
        return list(range(len(data.images)))
    return np.argsort(np.argsort([int(image.id) for image in data.images], kind="stable")).tolist()


def _ground_truth(data: DetectionSet, numbers: Sequence[int]) -> dict[str, Any]:
    annotations = [
        {
            "id": 0,
            "image_id": number,
            "category_id": one.label,
            "bbox": list(one.box),
            "area": one.area,
            "iscrowd": int(one.crowd),
            "difficult": one.difficult,
            "segmentation": one.segmentation or [],
        }
        for number, image in zip(numbers, data.images, strict=True)
        for one in image.annotations
    ]
    for number, annotation in enumerate(annotations, start=1):  # pycocotools takes id 0 for "not matched"
        annotation["id"] = number
    return {
        "images": [
            {"id": number, "width": one.width, "height": one.height}
            for number, one in zip(numbers, data.images, strict=True)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(data.classes)],
        "annotations": annotations,
    }


def _results(detections: Sequence[Detections], numbers: Sequence[Any], what: str) -> list[dict[str, Any]]:
    entries = []
    for number, found in zip(numbers, detections, strict=True):
        for row, (x1, y1, x2, y2) in enumerate(found.boxes.astype(np.float32)):
            box = [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
            entry: dict[str, Any] = {"image_id": number, "category_id": int(found.labels[row])}
            entry |= {"score": float(found.scores[row])}
            if what == "segm":
                assert found.masks is not None
                entry["segmentation"] = found.masks[row]
            else:
                entry["bbox"] = box
            entries.append(entry)
    return entries


def result_file_entries(data: DetectionSet, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """A COCO result file: image and category ids are those of the annotation file, and the class's name is beside them.

    VOC has neither: there the image's name and the class's place in `data.classes` stand.
    """
    entries = _results(detections, [image.id for image in data.images], "bbox")
    masks = [mask for found in detections for mask in found.masks or ()]
    for place, entry in enumerate(entries):
        name = data.classes[entry["category_id"]]
        entry |= {"category_id": data.category_ids.get(name, entry["category_id"]), "category": name}
        if masks:
            entry["segmentation"] = masks[place]
    return entries
