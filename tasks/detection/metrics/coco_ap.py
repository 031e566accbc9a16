"""COCO's average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections

_STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def coco_average_precision(
    data: DetectionDataset, detections: Sequence[Detections], iou_type: str
) -> tuple[dict[str, float], np.ndarray]:
    """COCO's six numbers, as fractions, and the AP of each class (classes,).

    A number is NaN if the test set has no objects of that size or class.

    Args:
        data: the test set.
        detections: one entry for each image, in the order of the dataset.
        iou_type: bbox or segm.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Evaluator(COCOeval):  # type: ignore[misc]
        def _prepare(self) -> None:
            """Ignore difficult objects as well; pycocotools only ignores crowd regions."""
            super()._prepare()
            for objects in self._gts.values():
                for obj in objects:
                    obj["ignore"] = obj["ignore"] or obj["difficult"]

    image_ids = _image_ids(data)
    ground_truth = COCO()
    ground_truth.dataset = _ground_truth(data, image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
        results = _results(detections, image_ids, iou_type)
        if results:
            predictions = ground_truth.loadRes(results)
        else:  # loadRes fails on an empty list
            predictions = COCO()
            predictions.dataset = ground_truth.dataset | {"annotations": []}
            predictions.createIndex()
        evaluator = Evaluator(ground_truth, predictions, iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = {name: float(value) for name, value in zip(_STATS, evaluator.stats, strict=False)}
    # (thresholds, recalls, classes, areas, max detections): all areas, 100 detections; -1 stands for "no objects".
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    by_class = np.full(precision.shape[2], np.nan)
    for label in range(precision.shape[2]):
        valid = precision[:, :, label][precision[:, :, label] > -1]
        if valid.size:
            by_class[label] = valid.mean()
    return {name: np.nan if value == -1 else value for name, value in stats.items()}, by_class


def _image_ids(data: DetectionDataset) -> list[int]:
    """Image ids for pycocotools, which sorts by them: among equal scores the image with the lower id comes first."""
    if not data.images.numbered:
        return list(range(len(data.images)))
    order = sorted(range(len(data.images)), key=data.images.id)  # ids may exceed NumPy's integers
    return np.argsort(order).tolist()


def _ground_truth(data: DetectionDataset, image_ids: Sequence[int]) -> dict[str, Any]:
    """The dataset as pycocotools reads it from a file."""
    annotations = [
        {
            "id": 0,
            "image_id": image_id,
            "category_id": obj.label,
            "bbox": list(obj.box),
            "area": obj.area,
            "iscrowd": int(obj.crowd),
            "difficult": obj.difficult,
            "segmentation": obj.segmentation or [],
        }
        for image_id, image in zip(image_ids, data.images, strict=True)
        for obj in image.annotations
    ]
    for annotation_id, annotation in enumerate(annotations, start=1):  # pycocotools takes id 0 for "not matched"
        annotation["id"] = annotation_id
    return {
        "images": [
            {"id": image_id, "width": width, "height": height}
            for image_id, (width, height) in zip(image_ids, data.images.sizes.tolist(), strict=True)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(data.classes)],
        "annotations": annotations,
    }


def _results(detections: Sequence[Detections], image_ids: Sequence[int | str], iou_type: str) -> list[dict[str, Any]]:
    """The entries of a COCO result file."""
    entries = []
    for image_id, detected in zip(image_ids, detections, strict=True):
        for row, (x1, y1, x2, y2) in enumerate(detected.boxes.astype(np.float32)):
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": int(detected.labels[row]),
                "score": float(detected.scores[row]),
            }
            if iou_type == "segm":
                assert detected.masks is not None
                entry["segmentation"] = detected.masks[row]
            else:
                entry["bbox"] = [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
            entries.append(entry)
    return entries


def result_file_entries(data: DetectionDataset, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """The content of a COCO result file, with the class name added to each entry.

    Image and category ids are those of the annotation file. VOC has neither: there they are the image's name and the index
    of the class in `data.classes`.
    """
    entries = _results(detections, [data.images.id(row) for row in range(len(data.images))], "bbox")
    masks = [mask for detected in detections for mask in detected.masks or ()]
    for index, entry in enumerate(entries):
        name = data.classes[entry["category_id"]]
        entry |= {"category_id": data.category_ids.get(name, entry["category_id"]), "category": name}
        if masks:
            entry["segmentation"] = masks[index]
    return entries
