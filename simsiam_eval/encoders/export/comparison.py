"""Compare the features that another program computes with the encoder's, on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.errors import DataError
from simsiam_eval.images.opened import DecodedImage
from simsiam_eval.images.preprocess import Preprocessing

METRICS = ("compared_with", "compared_images", "largest_difference", "relative_difference", "min_cosine")


@dataclass(frozen=True)
class Comparison:
    """How far the features of another program are from the encoder's.

    Attributes:
        consumer: the program that read the file, with its version.
        images: number of images.
        largest_difference: largest absolute difference of a feature.
        relative_difference: the same, relative to the largest absolute feature.
        min_cosine: smallest cosine similarity over the images.
    """

    consumer: str
    images: int
    largest_difference: float
    relative_difference: float
    min_cosine: float

    @property
    def package(self) -> tuple[str, str]:
        """The consumer's name and version."""
        name, _, version = self.consumer.partition(" ")
        return name, version

    def to_metrics(self) -> dict[str, Any]:
        """For the record."""
        differences = (self.largest_difference, self.relative_difference, self.min_cosine)
        return dict(zip(METRICS, (self.package[0], self.images, *differences), strict=True))

    def to_metadata(self) -> dict[str, str]:
        """As strings, for the metadata of a file."""
        return {
            "compared_with": self.consumer,
            "compared_images": str(self.images),
            "largest_difference": f"{self.largest_difference:.3g}",
            "min_cosine": f"{self.min_cosine:.9f}",
        }


class Samples:
    """Images on which programs are compared.

    Args:
        images: B images (H,W,3) uint8 of any sizes.
        preprocessing: of the encoder. If it takes neither RGB nor gray images, the color channels are repeated.
    """

    def __init__(self, images: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing) -> None:
        self.images, self.preprocessing = images, preprocessing

    @cached_property
    def pixels(self) -> Tensor:
        """(B,C,S,S) uint8: resized and cropped."""
        channels = self.preprocessing.channels
        prepared = self.preprocessing if channels == 1 else replace(self.preprocessing, channels=3)
        pixels = torch.stack([prepared.pixels(DecodedImage(image)) for image in self.images])
        return pixels if channels in (1, 3) else pixels[:, [channel % 3 for channel in range(channels)]]

    @cached_property
    def normalized(self) -> Tensor:
        """(B,C,S,S) float32: what the encoder takes."""
        return self.preprocessing.normalize(self.pixels)

    @torch.inference_mode()
    def features(self, encoder: Encoder) -> Tensor:
        """(B,D): the encoder's own."""
        return encoder.eval()(self.normalized)


def compare(consumer: str, features: Tensor, expected: Tensor) -> Comparison:
    """Compare features (B,D) with those of the encoder.

    Raises:
        DataError: the program returns something of another shape.

    >>> compare("a", torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    Comparison(consumer='a', images=1, largest_difference=2.0, relative_difference=0.5, min_cosine=1.0)
    """
    if features.shape != expected.shape:
        raise DataError(
            f"{consumer} computes features of shape {tuple(features.shape)}, the encoder {tuple(expected.shape)}."
        )
    features, expected = features.double(), expected.double()
    largest = float((features - expected).abs().max())
    if largest == 0:  # also of an encoder whose features are all zero, which have no cosine
        return Comparison(consumer, len(expected), 0.0, 0.0, 1.0)
    cosines = F.cosine_similarity(features, expected, dim=1)
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return Comparison(consumer, len(expected), largest, largest / scale, float(cosines.min()))
