"""What is odd in a detection set, counted and named, and what is made of it: kept or dropped as detectron2 does."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from simsiam_eval.encoders.families import some
from simsiam_eval.errors import DataError
from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.batches import unusable, worker_count
from tasks.detection.data.dataset import Annotation, DetectionSet, LabeledImage


@dataclass
class Findings:
    """Counts of a set, and for each oddity the images it was found in.

    `unused`: classes without a box. `left_out`: boxes of classes that --classes leaves out. `odd`: what it is
    and what is done about it -> ids of the images, one for each case.
    """

    images: int = 0
    boxes: int = 0
    classes: int = 0
    unused: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, image: LabeledImage) -> None:
        """Count one case."""
        self.odd.setdefault(what, []).append(str(image.id))

    def to_dict(self) -> dict[str, object]:
        """For the record: counts, and the first images of each oddity."""
        odd = {what: {"count": len(ids), "images": list(dict.fromkeys(ids))[:20]} for what, ids in self.odd.items()}
        counts = {"images": self.images, "boxes": self.boxes, "classes": self.classes}
        return {**counts, "classes_without_a_box": self.unused, "left_out": self.left_out, "odd": odd}

    def sentences(self, role: str) -> list[str]:
        """For the person at the terminal."""
        said = [f"{role}: {self.images} images, {self.boxes} boxes, {self.classes} classes."]
        if self.unused:
            said.append(f"{role}: {len(self.unused)} classes have no box ({some(self.unused)}).")
        if self.left_out:
            names = some(f"{count} of {name}" for name, count in self.left_out.items())
            said.append(f"{role}: {sum(self.left_out.values())} boxes of classes that --classes leaves out ({names}).")
        for what, ids in self.odd.items():
            said.append(f"{role}: {len(ids)} x {what} ({some(dict.fromkeys(ids))}).")
        return said


def check_training_set(data: DetectionSet, masks: bool) -> tuple[DetectionSet, Findings]:
    """The set as it is trained on: no crowds, boxes clipped to the image, no boxes without area, no empty images.

    A VOC box of xmin = xmax is one pixel wide in VOC's way of counting and is kept; difficult objects are kept too.

    With `masks`, boxes without a segmentation are dropped as well.

    Raises:
        DataError: no box is left.
    """
    findings, kept = Findings(), []
    places: set[str] = set()
    for image in data.images:
        annotations = []
        if (place := os.path.abspath(image.path)) in places:
            findings.add("image that is there twice", image)
        places.add(place)
        for one in image.annotations:
            clipped = _trained_on(one, image, findings, data.kind)
            if clipped is not None and masks and one.segmentation is None:
                findings.add("box without a segmentation, dropped", image)
            elif clipped is not None:
                annotations.append(clipped)
        if annotations:
            kept.append(replace(image, annotations=tuple(annotations)))
        else:
            findings.add("image without a box to learn, dropped", image)
    if not kept and "box without a segmentation, dropped" in findings.odd:
        raise DataError(f"There are no segmentations in {data.spec}: use --no-masks.")
    if not kept:
        raise DataError(f"There are no boxes at all to learn from in {data.spec}: annotate it, or check --classes.")
    trained = replace(data, images=tuple(kept))
    _count(findings, trained)
    return trained, findings


def _trained_on(one: Annotation, image: LabeledImage, findings: Findings, kind: str) -> Annotation | None:
    if one.crowd:
        findings.add("crowd, dropped", image)
        return None
    x1, y1, x2, y2 = one.corners
    inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(image.width)), min(y2, float(image.height))
    # Backends hold, flip and resize corners in float32, where the two sides of a thinner box can become one.
    thinnest = 4 * float(np.spacing(np.float32(max(image.width, image.height))))
    if inside[2] - inside[0] <= thinnest or inside[3] - inside[1] <= thinnest:
        without = min(one.box[2], one.box[3]) <= thinnest
        findings.add(f"box {'without area' if without else 'outside its image'}, dropped", image)
        return None
    if kind == "voc" and min(one.box[2], one.box[3]) <= 1:
        findings.add("box without area (xmin = xmax or ymin = ymax), kept as one pixel wide", image)
    if _outside(one, image):
        findings.add("box partly outside its image, clipped", image)
        return replace(one, box=(inside[0], inside[1], inside[2] - inside[0], inside[3] - inside[1]))
    return one


def _outside(one: Annotation, image: LabeledImage) -> bool:
    x1, y1, x2, y2 = one.corners
    rounding = 0.01  # COCO's boxes have two decimals, and end up to that much beyond the edge
    return x1 < -rounding or y1 < -rounding or x2 > image.width + rounding or y2 > image.height + rounding


def check_test_set(data: DetectionSet, masks: bool) -> Findings:
    """What is odd in a set that is evaluated on, where every annotation stays as it is written.

    Raises:
        DataError: nothing is asked for in it, or, with `masks`, there is an annotation without a segmentation.
    """
    findings, asked = Findings(), 0
    for image in data.images:
        for one in image.annotations:
            asked += not (one.crowd or one.difficult)
            if masks and one.segmentation is None:
                raise DataError(f"Image {image.id} of {data.spec} has a box without a segmentation: use --no-masks.")
            if one.crowd:
                findings.add("crowd, a region that is not counted", image)
            if one.difficult:
                findings.add("difficult, not counted", image)
            if data.kind == "voc" and 0 < min(one.box[2], one.box[3]) <= 1:
                findings.add("box without area (xmin = xmax or ymin = ymax), asked for as one pixel wide", image)
            elif min(one.box[2], one.box[3]) <= 0:
                findings.add("box without area, asked for and never found", image)
            elif _outside(one, image):
                findings.add("box partly outside its image, asked for as it is written", image)
        if not image.annotations:
            findings.add("image without boxes, where every detection is wrong", image)
    if not asked:
        raise DataError(f"There are no boxes at all to find in {data.spec}: annotate it, or check --classes.")
    _count(findings, data)
    return findings


def count_training_images(train: DetectionSet, test: DetectionSet, findings: Findings) -> None:
    """Add to a test set's findings the images that are trained on too, by their paths."""
    trained_on = {os.path.abspath(image.path) for image in train.images}
    for image in test.images:
        if os.path.abspath(image.path) in trained_on:
            findings.add("image of the training set, which tells nothing of new images", image)


def refuse_unusable_images(data: DetectionSet, processes: Processes) -> None:
    """Look into the header of every image, before anything is trained; the processes share the images.

    Raises:
        DataError: in every process, where an image cannot be opened, or is not as large as its annotations say.
    """
    mine, reasons = data.images[processes.rank :: processes.world], []
    with ThreadPoolExecutor(worker_count(None)) as pool:  # they wait for the disk
        for start in range(0, len(mine), 1024):  # Ctrl-C waits for no more than these
            reasons += [reason for reason in pool.map(unusable, mine[start : start + 1024]) if reason]
    more = f", and {len(reasons) - 1} more like it" if len(reasons) > 1 else ""
    wrong = processes.first_text(f"{reasons[0]}{more}" if reasons else "")
    if wrong:
        raise DataError(f"{data.spec}: {wrong}; put that right, and give the command again.")


def _count(findings: Findings, data: DetectionSet) -> None:
    used = {one.label for image in data.images for one in image.annotations}
    findings.left_out = data.left_out
    findings.images, findings.classes = len(data.images), len(data.classes)
    findings.boxes = sum(len(image.annotations) for image in data.images)
    findings.unused = [name for number, name in enumerate(data.classes) if number not in used]
