"""Images in detectron2's form.

An unusable image is returned as a reason, because an exception in a worker process would include its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetMapper, detection_utils
from detectron2.structures import BoxMode
from torch import Tensor
from torch.utils.data import Dataset

from simsiam_eval.errors import DataError
from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.dataset import DetectionDataset, LabeledImage
from tasks.detection.data.images import ImageProblem, read_pixels

_PROBLEM = "problem"  # key of the entry of an image that cannot be used
_INTENSITY = "intensity"  # key of black and white of images of more than 8 bits


def dataset_dict(image: LabeledImage, index: int) -> dict[str, Any]:
    """The image and its objects as detectron2's datasets have them; `index`: its position in the dataset."""
    annotations = []
    for obj in image.annotations:
        entry = {"bbox": list(obj.corners), "bbox_mode": BoxMode.XYXY_ABS, "category_id": obj.label, "iscrowd": 0}
        if obj.segmentation is not None:
            entry["segmentation"] = obj.segmentation
        annotations.append(entry)
    size = {"width": image.width, "height": image.height}
    levels = {_INTENSITY: image.intensity}
    return {"file_name": str(image.path), "image_id": index, "annotations": annotations, **size, **levels}


class TrainingImages(Dataset):
    """`dataset_dict` of each image, made when it is asked for; a list of them would be a second copy."""

    def __init__(self, data: DetectionDataset) -> None:
        self.images = data.images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return dataset_dict(self.images[row], row)


class Mapper(DatasetMapper):  # type: ignore[misc]
    """detectron2's mapper on images as all backends read them; of one that cannot be used, an entry with the reason.

    detectron2's own reader clips images of 16 bits to white, and puts transparent pixels on any color.
    """

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        image = LabeledImage(0, Path(entry["file_name"]), entry["width"], entry["height"], (), entry[_INTENSITY])
        pixels = read_pixels(image)
        if isinstance(pixels, ImageProblem):
            return {_PROBLEM: pixels, "width": entry["width"], "height": entry["height"]}
        with _reading(pixels):
            mapped: dict[str, Any] = super().__call__(entry)
        return mapped


@contextmanager
def _reading(pixels: Tensor) -> Iterator[None]:
    """Let detectron2 read this image (3,H,W) uint8; its mapper calls a function of a module and takes no other."""
    read_image = detection_utils.read_image
    detection_utils.read_image = lambda *_, **__: np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    try:
        yield
    finally:
        detection_utils.read_image = read_image


def problem_of(mapped: dict[str, Any]) -> ImageProblem | None:
    """Why the image of an entry that Mapper returned cannot be used, if so."""
    return mapped.get(_PROBLEM)


class UnusableImageError(DataError):
    """Why an image of a training batch cannot be used, as a clause."""


class CheckedLoader:
    """A data loader that raises UnusableImageError, in every process, for a batch with an unusable image."""

    def __init__(self, loader: Any, processes: Processes) -> None:
        self.loader, self.dataset, self.processes = loader, getattr(loader, "dataset", None), processes

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            reason = next((problem.reason for entry in batch if (problem := problem_of(entry))), "")
            if self.processes.largest(bool(reason)):
                raise UnusableImageError(self.processes.first_text(reason))
            yield batch
