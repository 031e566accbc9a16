"""A detection dataset: images, the objects in them, and the class names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict


class RunLengthMask(TypedDict):
    """A run-length encoded mask as in COCO: `size` is [height, width], `counts` the runs or their compressed text."""

    size: list[int]
    counts: str | list[int]


# Polygons of the form [x1, y1, x2, y2, ...], or a run-length encoding.
Segmentation = list[list[float]] | RunLengthMask


@dataclass(frozen=True)
class Annotation:
    """One object in an image.

    Attributes:
        box: x, y, width, height in pixels from the top left corner of the image, not clipped to it (as in COCO). VOC's
            corners, which count pixels from 1 and are inclusive, become (xmin - 1, ymin - 1, xmax - xmin + 1,
            ymax - ymin + 1).
        label: index into the class names.
        crowd: COCO's mark for a group of objects, ignored in evaluation.
        difficult: VOC's mark for an object that is ignored in evaluation.
        area: in pixels; of the object where the file gives it (COCO), otherwise of the box.
        segmentation: outline or mask of the object, None without one.
    """

    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    difficult: bool = False
    area: float = 0.0
    segmentation: Segmentation | None = None

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2."""
        x, y, width, height = self.box
        return x, y, x + width, y + height


@dataclass(frozen=True)
class LabeledImage:
    """An image file, its size in pixels, and its objects; `id` is the dataset's own name or number for it."""

    id: str | int
    path: Path
    width: int
    height: int
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class DetectionDataset:
    """Images in the order of the file or list, and the class names that labels index.

    Attributes:
        spec: how the dataset was given, for messages and the record.
        kind: voc or coco.
        excluded: number of boxes of each class that `--classes` excludes.
        category_ids: COCO's category id for each class name.
    """

    spec: str
    kind: str
    classes: tuple[str, ...]
    images: tuple[LabeledImage, ...]
    excluded: dict[str, int] = field(default_factory=dict)
    category_ids: dict[str, int] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """sha256 of names, sizes, classes and annotations; a resumed run must see the same."""
        digest = hashlib.sha256(json.dumps([self.kind, self.classes]).encode())
        for image in self.images:
            objects = [
                [obj.box, obj.label, obj.crowd, obj.difficult, obj.area, obj.segmentation] for obj in image.annotations
            ]
            digest.update(json.dumps([str(image.id), image.width, image.height, objects]).encode())
        return digest.hexdigest()

    def relabeled(self, classes: tuple[str, ...]) -> DetectionDataset:
        """The same dataset with labels that index `classes`, which must contain every class of this one."""
        new_label = [classes.index(name) for name in self.classes]
        images = (
            replace(image, annotations=tuple(replace(obj, label=new_label[obj.label]) for obj in image.annotations))
            for image in self.images
        )
        return replace(self, classes=classes, images=tuple(images))
