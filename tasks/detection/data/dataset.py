"""What a detection set is: images, the objects in them, and the names of their classes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Annotation:
    """One object of an image.

    Attributes:
        box: x, y, width, height in pixels from the image's corner, as COCO has it and unclipped. VOC's corners, which
            count pixels from 1 and belong to the box, become (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1).
        label: number of the class.
        crowd, difficult: COCO's and VOC's marks of what is not asked for in the evaluation.
        area: in pixels, of the object where the file says so (COCO), else of the box.
        segmentation: polygons or RLE, as COCO writes them; None where there is none.
    """

    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    difficult: bool = False
    area: float = 0.0
    segmentation: Any = None

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2."""
        x, y, width, height = self.box
        return x, y, x + width, y + height


@dataclass(frozen=True)
class LabeledImage:
    """An image file, its size in pixels, and what is in it; `id` is the dataset's own name or number of it."""

    id: str | int
    path: Path
    width: int
    height: int
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class DetectionSet:
    """Images in the file's order, and the names of the classes that labels number; `kind` is voc or coco.

    `left_out`: boxes of each class that `--classes` leaves out. `category_ids`: COCO's own number of each class.
    """

    spec: str
    kind: str
    classes: tuple[str, ...]
    images: tuple[LabeledImage, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    category_ids: dict[str, int] = field(default_factory=dict)

    def digest(self) -> str:
        """sha256 of names, sizes, classes and annotations: what a resumed run must have again."""
        digest = hashlib.sha256(json.dumps([self.kind, self.classes]).encode())
        for image in self.images:
            marks = [
                [one.box, one.label, one.crowd, one.difficult, one.area, one.segmentation] for one in image.annotations
            ]
            digest.update(json.dumps([str(image.id), image.width, image.height, marks]).encode())
        return digest.hexdigest()

    def relabeled(self, classes: tuple[str, ...]) -> DetectionSet:
        """The same with labels that number `classes`, in which every class here must be."""
        number = [classes.index(name) for name in self.classes]
        images = (
            replace(image, annotations=tuple(replace(one, label=number[one.label]) for one in image.annotations))
            for image in self.images
        )
        return replace(self, classes=classes, images=tuple(images))
