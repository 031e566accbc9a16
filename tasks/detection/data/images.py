"""Read the images of a detection dataset, and find unusable images before training starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import image_header, open_image
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.runtime.processes import Processes
from tasks.detection.data.dataset import DetectionDataset, LabeledImage
from tasks.detection.data.image_files import SIDEWAYS, in_threads

_SAME_SIZE = (2, 3, 4)  # EXIF orientations that keep width and height


@dataclass(frozen=True)
class ImageProblem:
    """Why an image cannot be used, as a clause of a sentence.

    A value, not an exception: DataLoader passes on a worker's exception with its traceback.
    """

    reason: str


def read_pixels(image: LabeledImage) -> Tensor | ImageProblem:
    """The decoded image (3,H,W) uint8, or why it cannot be used."""
    try:
        opened = open_image(image.path).scaled(image.intensity)
        pixels = torch.tensor(opened.pixels()).permute(2, 0, 1).contiguous()
    except UnreadableImage as error:
        return _unreadable(image, error)
    return _size_mismatch(image, pixels.shape[2], pixels.shape[1]) or pixels


def check_header(image: LabeledImage) -> ImageProblem | bool:
    """Why the image cannot be used, as far as its header shows; else whether its boxes may be those of the image without
    its EXIF orientation, which does not change its size."""
    try:
        try:
            width, height, orientation = image_header(image.path)
            if _size_mismatch(image, width, height) is None:
                return orientation in _SAME_SIZE or (orientation in SIDEWAYS and width == height)
        except UnreadableImage:
            pass  # an array, or a TIFF of a type that Pillow does not know
        opened = open_image(image.path)  # a PNG may hold its EXIF orientation behind the pixels
        return _size_mismatch(image, opened.width, opened.height) or False
    except UnreadableImage as error:
        return _unreadable(image, error)


def _unreadable(image: LabeledImage, error: UnreadableImage) -> ImageProblem:
    return ImageProblem(f"the image {image.path} cannot be read ({error})")


def _size_mismatch(image: LabeledImage, width: int, height: int) -> ImageProblem | None:
    if (width, height) == (image.width, image.height):
        return None
    sideways = (width, height) == (image.height, image.width)
    reason = ": width and height are swapped, as where an EXIF orientation is not applied" if sideways else ""
    return ImageProblem(
        f"the image {image.path} is {width}x{height}, but its annotations are for {image.width}x{image.height}{reason}"
    )


def check_images(data: DetectionDataset, processes: Processes) -> list[int]:
    """Check the header of every image before training; the processes share the images.

    Returns:
        The rows whose boxes may be those of the image without its EXIF orientation, in every process.

    Raises:
        DataError: in every process, if an image cannot be opened or its size differs from its annotations.
    """
    rows = range(processes.rank, len(data.images), processes.world)
    checked = list(in_threads(lambda row: check_header(data.images.without_objects(row)), rows))
    problems = [problem for problem in checked if isinstance(problem, ImageProblem)]
    more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
    first = processes.first_text(f"{problems[0].reason}{more}" if problems else "")
    if first:
        raise DataError(f"{data.spec}: {first}. Fix this and rerun the command.")
    turned = [row for row, found in zip(rows, checked, strict=True) if found is True]
    return sorted(row for part in processes.gathered(turned) for row in part)
