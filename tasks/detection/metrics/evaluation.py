"""Evaluate the detections of a test set: AP, AP50 and AP75, the same for all backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simsiam_eval.wording import first_few
from tasks.detection.data.dataset import DetectionDataset
from tasks.detection.data.detections import Detections
from tasks.detection.metrics.coco_ap import coco_average_precision
from tasks.detection.metrics.voc_ap import voc_average_precision


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one detector on one test set.

    Attributes:
        detections, images: how many there were.
        average_precision: ap, ap50, ap75 and the like -> fraction in [0, 1], NaN without such objects.
        by_class: by_class, by_class_ap50, mask_by_class -> class name -> fraction, NaN without such objects.
        warnings: what a reader must know about the numbers.
    """

    detections: int
    images: int
    average_precision: dict[str, float]
    by_class: dict[str, dict[str, float]]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The metrics for the record; the warnings have a key of their own there."""
        return {"detections": self.detections, "images": self.images, **self.average_precision, **self.by_class}

    @classmethod
    def from_dict(cls, metrics: dict[str, Any], warnings: list[str]) -> Evaluation:
        """From `to_dict`, also if read from JSON, where NaN is null, and the warnings."""
        values = dict(metrics)
        detections, images = values.pop("detections"), values.pop("images")
        average_precision = {name: _nan_if_none(value) for name, value in values.items() if not isinstance(value, dict)}
        by_class = {
            name: {label: _nan_if_none(number) for label, number in value.items()}
            for name, value in values.items()
            if isinstance(value, dict)
        }
        return cls(detections, images, average_precision, by_class, warnings)


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value


def evaluate(data: DetectionDataset, detections: Sequence[Detections], metric: str) -> Evaluation:
    """AP averaged over IoU .50 to .95, AP50 and AP75 of the boxes and, with COCO's metric, of the masks (`mask_ap`).

    Classes without objects in `data`, or with only difficult objects or crowd regions, are left out of the mean. Without
    any detection AP is 0. Both come with a warning.

    Args:
        data: the test set.
        detections: one entry for each image, in the order of the dataset.
        metric: voc07 (11 points), voc (area) or coco.

    Raises:
        ValueError: the number of entries is not the number of images.
    """
    if len(detections) != len(data.images):
        raise ValueError(f"expected detections for {len(data.images)} images, got {len(detections)}")
    evaluated = _coco(data, detections) if metric == "coco" else _voc(data, detections, metric)
    count = sum(len(detected.scores) for detected in detections)
    warnings = [] if count else ["The detector detected nothing in the test images; AP is 0."]
    return Evaluation(count, len(data.images), *evaluated, warnings + _left_out_classes(data))


_Numbers = tuple[dict[str, float], dict[str, dict[str, float]]]  # average_precision and by_class of Evaluation


def _coco(data: DetectionDataset, detections: Sequence[Detections]) -> _Numbers:
    average_precision: dict[str, float] = {}
    by_class: dict[str, dict[str, float]] = {}
    masks = any(detected.masks is not None for detected in detections)
    for prefix, iou_type in (("", "bbox"), ("mask_", "segm")) if masks else (("", "bbox"),):
        stats, class_ap = coco_average_precision(data, detections, iou_type)
        average_precision |= {prefix + name: value for name, value in stats.items()}
        by_class[f"{prefix}by_class"] = dict(zip(data.classes, class_ap.tolist(), strict=True))
    return average_precision, by_class


def _voc(data: DetectionDataset, detections: Sequence[Detections], rule: str) -> _Numbers:
    precision, counts = voc_average_precision(data, detections, rule)
    present = precision[[label for label, objects in enumerate(counts) if objects]]
    average_precision = {
        "ap": float(present.mean(axis=0).mean()),
        "ap50": float(present[:, 0].mean()),
        "ap75": float(present[:, 5].mean()),
    }
    return average_precision, {
        "by_class": dict(zip(data.classes, precision.mean(axis=1).tolist(), strict=True)),
        "by_class_ap50": dict(zip(data.classes, precision[:, 0].tolist(), strict=True)),
    }


def _left_out_classes(data: DetectionDataset) -> list[str]:
    """Warnings that name the classes without an object that counts."""
    objects = data.images.objects
    present, counted = data.boxes_per_class(), data.boxes_per_class(~(objects["difficult"] | objects["crowd"]))
    absent = [name for label, name in enumerate(data.classes) if not present[label]]
    ignored = [name for label, name in enumerate(data.classes) if present[label] and not counted[label]]
    warnings = [f"The test set has no objects of {first_few(absent)}; left out of the mean."] if absent else []
    if ignored:
        ignore = " or marked ignore" if objects["difficult"].any() else ""
        mark = "difficult" if data.kind == "voc" else f"crowd regions{ignore}"
        warnings.append(f"All objects of {first_few(ignored)} in the test set are {mark}; left out of the mean.")
    return warnings
