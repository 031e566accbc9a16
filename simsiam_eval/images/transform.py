"""Preprocess images passed from Python (Pillow images, arrays, paths) for an encoder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import open_image, open_pillow
from simsiam_eval.images.opened import DecodedImage, OpenedImage, UnreadableImage, read_file
from simsiam_eval.images.pillow_channels import pillow_channels
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.images.stored import StoredImage, read_stored, rgb_or_gray, selected

if TYPE_CHECKING:
    import torch


class ImageTransform:
    """The preprocessing of an encoder as a callable, for one image; give it to a torchvision dataset as `transform`.

    Equal to what `extract` does to the same image file. Can be pickled, so that DataLoader workers can use it.

    Args:
        preprocessing: sizes, mean and standard deviation.

    >>> transform = ImageTransform(Preprocessing(resize=8, crop=8))
    >>> transform(Image.new("RGB", (20, 10), "red")).shape
    torch.Size([3, 8, 8])
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Any) -> torch.Tensor:
        """One image -> (C,S,S) float32, C being the channels and S the crop.

        Args:
            image: a Pillow image, a path, the bytes of an image file, or an array (H,W), (H,W,1) or (H,W,3) of integers or
                floats; with selected channels, (H,W), (H,W,C) or (C,H,W).

        Raises:
            TypeError: anything else.
            DataError: an image that cannot be decoded or has other channels (the sentence names the file), or the encoder
                takes neither gray nor RGB images and no channels are selected.
        """
        selection, intensity = self.preprocessing.selection, self.preprocessing.intensity
        try:
            if selection is None:
                opened = as_opened_image(image).scaled(intensity)
            else:
                opened = DecodedImage(selected(as_stored_image(image), selection, intensity))
            pixels = self.preprocessing.pixels(opened)
        except UnreadableImage as error:
            name = os.fspath(image) if isinstance(image, str | os.PathLike) else "image"
            raise DataError(f"{name}: {error}.") from error
        return self.preprocessing.normalize(pixels[None])[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.preprocessing})"


def as_opened_image(image: Any) -> OpenedImage:
    """An image from a Pillow image, a path, the bytes of a file, or an array (H,W), (H,W,1) or (H,W,3) of numbers.

    Raises:
        TypeError: the image has another type.
        UnreadableImage: a file that cannot be opened.
    """
    if isinstance(image, OpenedImage):
        return image
    if isinstance(image, str | os.PathLike | bytes):
        return open_image(image)
    if isinstance(image, Image.Image):
        return open_pillow(image)
    if isinstance(image, np.ndarray):
        if is_rgb_or_gray(image):
            return rgb_or_gray(StoredImage(image, "last"))
        got = f"an array of shape {image.shape} and dtype {image.dtype}, which requires `channels`"
    else:
        got = type(image).__name__
    raise TypeError(f"an image must be a Pillow image, a path, bytes or an array (H,W,3) or (H,W), got {got}")


def as_stored_image(image: Any) -> StoredImage:
    """The channels of a Pillow image, of the file at a path, of the bytes of a file, or of an array.

    Raises:
        TypeError: the image has another type.
        UnreadableImage: a file that cannot be read.
    """
    if isinstance(image, OpenedImage):
        return StoredImage(image.pixels(), "last")
    if isinstance(image, str | os.PathLike):
        return read_stored(read_file(image))
    if isinstance(image, bytes):
        return read_stored(image)
    if isinstance(image, Image.Image):
        return StoredImage(pillow_channels(image), "last")
    if isinstance(image, np.ndarray):
        return StoredImage(image)
    raise TypeError(f"an image must be a Pillow image, a path, bytes or an array, got {type(image).__name__}")


def is_rgb_or_gray(image: Any) -> bool:
    """Whether an image needs no selection of channels: all but arrays other than (H,W), (H,W,1) or (H,W,3) of numbers."""
    if not isinstance(image, np.ndarray):
        return True
    shape = image.shape if image.ndim == 3 else (*image.shape, 1)
    return image.dtype.kind in "buif" and image.size > 0 and len(shape) == 3 and shape[2] in (1, 3)
