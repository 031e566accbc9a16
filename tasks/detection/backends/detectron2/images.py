"""Our images in detectron2's form; one that cannot be read is a reason, as an exception would come as a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode

from simsiam_eval.errors import DataError
from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.dataset import LabeledImage
from tasks.detection.data.images import ImageProblem, read_pixels


def as_dict(image: LabeledImage, place: int) -> dict[str, Any]:
    """The image in detectron2's form; `place` is its number in the set."""
    annotations = []
    for one in image.annotations:
        entry = {"bbox": list(one.corners), "bbox_mode": BoxMode.XYXY_ABS, "category_id": one.label, "iscrowd": 0}
        if one.segmentation is not None:
            entry["segmentation"] = one.segmentation
        annotations.append(entry)
    size = {"width": image.width, "height": image.height}
    return {"file_name": str(image.path), "image_id": place, "annotations": annotations, **size}


class Mapper(DatasetMapper):  # type: ignore[misc]
    """detectron2's mapper; of an unreadable image it gives the reason, as `unreadable`."""

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        try:
            mapped: dict[str, Any] = super().__call__(entry)
            return mapped
        except Exception:  # whatever the decoder met; our own look at the image says it in a clause
            pixels = read_pixels(LabeledImage(0, Path(entry["file_name"]), entry["width"], entry["height"], ()))
            if not isinstance(pixels, ImageProblem):
                raise
            return {"unreadable": pixels.reason, "width": entry["width"], "height": entry["height"]}


class UnreadableImages(DataError):
    """The reason, as a clause, why an image of a training batch cannot be read."""


class Readable:
    """A loader that raises UnreadableImages, in every process, for a batch with one."""

    def __init__(self, loader: Any, processes: Processes) -> None:
        self.loader, self.dataset, self.processes = loader, getattr(loader, "dataset", None), processes

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            unreadable = next((one["unreadable"] for one in batch if "unreadable" in one), "")
            if self.processes.largest(bool(unreadable)):
                raise UnreadableImages(self.processes.first_text(unreadable))
            yield batch
