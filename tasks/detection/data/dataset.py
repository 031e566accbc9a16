"""A detection dataset: images, the objects in them, and the class names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.images.intensity import Intensity
from simsiam_eval.sources.packed_texts import PackedTexts
from tasks.detection.data.issues import Issues
from tasks.detection.data.outlines import Outlines, RunLengthMask, Segmentation

__all__ = ["OBJECT", "Annotation", "DetectionDataset", "LabeledImage", "LabeledImages", "RunLengthMask", "Segmentation"]

# One object: the row of its image, the fields of Annotation, and the row of its outline (-1: none).
OBJECT = np.dtype(
    [
        ("image", np.int32),
        ("label", np.int32),
        ("box", np.float64, (4,)),
        ("area", np.float64),
        ("outline", np.int64),
        ("crowd", np.bool_),
        ("difficult", np.bool_),
    ]
)


@dataclass(frozen=True)
class Annotation:
    """One object in an image.

    Attributes:
        box: x, y, width, height in pixels from the top left corner of the image, not clipped to it (as in COCO). VOC's
            corners, which count pixels from 1 and are inclusive, become (xmin - 1, ymin - 1, xmax - xmin + 1,
            ymax - ymin + 1).
        label: index into the class names.
        crowd: COCO's mark for a group of objects, ignored in evaluation.
        difficult: VOC's mark for an object that is ignored in evaluation, and COCO's `ignore`.
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
    """An image file, its size in pixels, and its objects.

    Attributes:
        id: the dataset's own name or number for it.
        intensity: which values are black and white, where it has more than 8 bits.
    """

    id: str | int
    path: Path
    width: int
    height: int
    annotations: tuple[Annotation, ...]
    intensity: Intensity = Intensity()


@dataclass(frozen=True, eq=False)
class LabeledImages(Sequence[LabeledImage]):
    """Images and their objects in a few arrays, from which a LabeledImage is made when it is asked for.

    Without a Python object per annotation, worker processes share the memory instead of copying it.

    Attributes:
        ids: of each image; `numbered`: they are numbers.
        paths: of each image file.
        sizes: (images,2) int32, width and height in pixels.
        objects: (objects,) OBJECT, in the order of the images.
        outlines: what `objects["outline"]` are rows of.
        intensity: which values of images of more than 8 bits are black and white.
    """

    ids: PackedTexts
    numbered: bool
    paths: PackedTexts
    sizes: NDArray[np.int32]
    objects: NDArray[np.void]
    outlines: Outlines
    intensity: Intensity = Intensity()
    _starts: NDArray[np.int64] = field(init=False, repr=False)  # row of each image's first object, and their number

    def __post_init__(self) -> None:
        starts = np.searchsorted(self.objects["image"], np.arange(len(self.ids) + 1))
        object.__setattr__(self, "_starts", starts)

    @classmethod
    def packed(cls, images: Iterable[LabeledImage]) -> LabeledImages:
        """From images one by one; all ids are numbers, or all are names."""
        images, outlines = list(images), Outlines()
        objects = [
            (row, obj.label, obj.box, obj.area, outlines.add(obj.segmentation), obj.crowd, obj.difficult)
            for row, image in enumerate(images)
            for obj in image.annotations
        ]
        return cls(
            PackedTexts(str(image.id) for image in images),
            all(isinstance(image.id, int) for image in images),
            PackedTexts(str(image.path) for image in images),
            np.array([(image.width, image.height) for image in images], np.int32).reshape(-1, 2),
            np.array(objects, OBJECT),
            outlines,
        )

    @classmethod
    def joined(cls, parts: Sequence[LabeledImages]) -> LabeledImages:
        """All images of several datasets."""
        if len(parts) == 1:
            return parts[0]
        objects, first_image, first_outline = [], 0, 0
        for part in parts:
            moved = part.objects.copy()
            moved["image"] += first_image
            moved["outline"][moved["outline"] >= 0] += first_outline
            objects.append(moved)
            first_image, first_outline = first_image + len(part), first_outline + len(part.outlines)
        return cls(
            PackedTexts(text for part in parts for text in part.ids),
            all(part.numbered for part in parts),
            PackedTexts(path for part in parts for path in part.paths),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate(objects),
            Outlines.joined([part.outlines for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> LabeledImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabeledImage]: ...
    def __getitem__(self, index: int | slice) -> LabeledImage | list[LabeledImage]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        image = self.without_objects(index)
        return replace(image, annotations=self._annotations(index % len(self), image))

    def without_objects(self, row: int) -> LabeledImage:
        """The image alone, where its objects are not needed."""
        width, height = self.sizes[row].tolist()
        return LabeledImage(self.id(row), Path(self.paths[row]), width, height, (), self.intensity)

    def id(self, row: int) -> int | str:
        """The dataset's own name or number for an image."""
        return int(self.ids[row]) if self.numbered else self.ids[row]

    def _annotations(self, row: int, image: LabeledImage) -> tuple[Annotation, ...]:
        objects = self.objects[self._starts[row] : self._starts[row + 1]]
        return tuple(
            Annotation(tuple(box), label, crowd, difficult, area, self.outlines.get(outline, image.height, image.width))
            for _, label, box, area, outline, crowd, difficult in objects.tolist()
        )

    def has_masks(self) -> bool:
        """Whether any object has a mask and not polygons."""
        rows = self.objects["outline"]
        return bool(self.outlines.has_mask()[rows[rows >= 0]].any())

    def object_sizes(self) -> NDArray[np.int32]:
        """(objects,2) int32, width and height of each object's image."""
        return self.sizes[self.objects["image"]]

    def with_objects(self, objects: NDArray[np.void]) -> LabeledImages:
        """The same images with other objects, in the order of the images."""
        return replace(self, objects=objects)

    def take(self, rows: NDArray[np.int64]) -> LabeledImages:
        """The images in these rows, in increasing order, with their objects."""
        if len(rows) == len(self):
            return self
        new_row = np.full(len(self), -1, np.int32)
        new_row[rows] = np.arange(len(rows))
        objects = self.objects[new_row[self.objects["image"]] >= 0]
        objects["image"] = new_row[objects["image"]]
        return replace(
            self,
            ids=PackedTexts(self.ids[row] for row in rows.tolist()),
            paths=PackedTexts(self.paths[row] for row in rows.tolist()),
            sizes=self.sizes[rows],
            objects=objects,
        )


@dataclass(frozen=True)
class DetectionDataset:
    """Images in the order of the file or list, and the class names that labels index.

    Attributes:
        spec: how the dataset was given, for messages and the record.
        kind: voc or coco.
        excluded: number of boxes of each class that `--classes` excludes.
        category_ids: COCO's category id for each class name.
        issues: what was corrected when the annotations were read.
        notes: sentences about the dataset as a whole.
    """

    spec: str
    kind: str
    classes: tuple[str, ...]
    images: LabeledImages
    excluded: dict[str, int] = field(default_factory=dict)
    category_ids: dict[str, int] = field(default_factory=dict)
    issues: Issues = field(default_factory=Issues)
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """sha256 of names, sizes, classes and annotations; a resumed run must see the same."""
        digest = hashlib.sha256(json.dumps([self.kind, self.classes]).encode())
        images = self.images
        images.ids.feed(digest.update)
        digest.update(images.sizes.tobytes())
        digest.update(images.objects.tobytes())
        images.outlines.feed(digest.update)
        if images.intensity.ranges:
            digest.update(json.dumps(images.intensity.to_json()).encode())
        return digest.hexdigest()

    def relabeled(self, classes: tuple[str, ...]) -> DetectionDataset:
        """The same dataset with labels that index `classes`, which must contain every class of this one."""
        if classes == self.classes:
            return self
        objects = self.images.objects.copy()
        objects["label"] = np.array([classes.index(name) for name in self.classes], np.int32)[objects["label"]]
        return replace(self, classes=classes, images=self.images.with_objects(objects))

    def with_intensity(self, intensity: Intensity) -> DetectionDataset:
        """The same dataset with these values of black and white."""
        return replace(self, images=replace(self.images, intensity=intensity))

    def boxes_per_class(self, counted: Any = slice(None)) -> list[int]:
        """Number of objects of each class, of those that `counted` selects."""
        return np.bincount(self.images.objects["label"][counted], minlength=len(self.classes)).tolist()
