"""The one evaluator: detections of a whole test set -> AP, AP50, AP75, whichever backend made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simsiam_eval.encoders.families import some
from tasks.detection.backends.predictions import Detections
from tasks.detection.data.dataset import DetectionSet
from tasks.detection.metrics.coco_ap import coco_average_precision
from tasks.detection.metrics.voc_ap import voc_average_precision


@dataclass(frozen=True)
class Evaluation:
    """`metrics`: fractions in [0, 1] by name, `by_class` among them; `warnings`: what a reader must know of them."""

    metrics: dict[str, Any]
    warnings: list[str]


def evaluate(data: DetectionSet, detections: Sequence[Detections], metric: str) -> Evaluation:
    """AP over IoU .50 to .95, AP50 and AP75, of the boxes and, with COCO's metric and masks, of these (`mask_ap`).

    `detections` has one entry for each image of `data`, in its order; `metric` is voc07 (11 points), voc (area) or coco.
    Classes that `data` has no object of, or none but difficult ones and crowds, are left out of the mean. No detection at
    all is AP 0. Both come with a warning.

    Raises:
        ValueError: an entry too many or too few.
    """
    if len(detections) != len(data.images):
        raise ValueError(f"{len(detections)} entries for {len(data.images)} images")
    count = sum(len(one.scores) for one in detections)
    masks = metric == "coco" and any(one.masks is not None for one in detections)
    metrics: dict[str, Any] = {"detections": count, "images": len(data.images)}
    warnings = [] if count else ["The detector found nothing at all in the test images: AP is 0."]
    if metric == "coco":
        for prefix, what in (("", "bbox"), ("mask_", "segm")) if masks else (("", "bbox"),):
            stats, by_class = coco_average_precision(data, detections, what)
            metrics |= {prefix + name: value for name, value in stats.items()}
            metrics[f"{prefix}by_class"] = dict(zip(data.classes, by_class.tolist(), strict=True))
    else:
        precision, counts = voc_average_precision(data, detections, metric)
        present = precision[[label for label, objects in enumerate(counts) if objects]]
        at = {"ap": present.mean(axis=0).mean(), "ap50": present[:, 0].mean(), "ap75": present[:, 5].mean()}
        metrics |= {name: float(value) for name, value in at.items()}
        metrics["by_class"] = dict(zip(data.classes, precision.mean(axis=1).tolist(), strict=True))
        metrics["by_class_ap50"] = dict(zip(data.classes, precision[:, 0].tolist(), strict=True))
    return Evaluation(metrics, warnings + _not_in_the_mean(data))


def _not_in_the_mean(data: DetectionSet) -> list[str]:
    """Sentences that name the classes without an object that is counted."""
    there = {one.label for image in data.images for one in image.annotations}
    counted = {one.label for image in data.images for one in image.annotations if not (one.difficult or one.crowd)}
    absent = [name for label, name in enumerate(data.classes) if label not in there]
    uncounted = [name for label, name in enumerate(data.classes) if label in there - counted]
    said = [f"No object of {some(absent)} is in the test set: not in the mean."] if absent else []
    if uncounted:
        mark = "difficult" if data.kind == "voc" else "a crowd"
        said.append(f"Every object of {some(uncounted)} in the test set is {mark}: not in the mean.")
    return said
