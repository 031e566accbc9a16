"""Preprocess images passed from Python (Pillow images, arrays, paths) for an encoder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import DecodedImage, OpenedImage, UnreadableImage, open_image, to_rgb
from simsiam_eval.images.preprocess import Preprocessing

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
            image: a Pillow image, a path, the bytes of an image file, or a uint8 array (H,W), (H,W,1) or (H,W,3).

        Raises:
            TypeError: anything else.
            DataError: an image that cannot be decoded (the sentence names the file), or the encoder takes neither gray nor
                RGB images.
        """
        try:
            pixels = self.preprocessing.pixels(as_opened_image(image))
        except UnreadableImage as error:
            name = os.fspath(image) if isinstance(image, str | os.PathLike) else "image"
            raise DataError(f"{name}: {error}.") from error
        return self.preprocessing.normalize(pixels[None])[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.preprocessing})"


def as_opened_image(image: Any) -> OpenedImage:
    """An image from a Pillow image, a path, the bytes of an image file, or a uint8 array (H,W), (H,W,1) or (H,W,3).

    Raises:
        TypeError: the image has another type.
        UnreadableImage: a file that cannot be opened.
    """
    if isinstance(image, OpenedImage):
        return image
    if isinstance(image, str | os.PathLike | bytes):
        return open_image(image)
    if isinstance(image, Image.Image):
        return DecodedImage(np.array(to_rgb(ImageOps.exif_transpose(image))))
    if isinstance(image, np.ndarray):
        pixels = image[:, :, None] if image.ndim == 2 else image
        if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size:
            return DecodedImage(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
        got = f"an array of shape {image.shape} and dtype {image.dtype}"
    else:
        got = type(image).__name__
    raise TypeError(f"an image must be a Pillow image, a path, bytes or a uint8 array (H,W,3) or (H,W), got {got}")
