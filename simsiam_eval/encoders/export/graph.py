"""An encoder as a graph that needs no Python code, with as much of the preprocessing in it as is wanted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.writer import Writer, quiet
from simsiam_eval.errors import UsageError
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.wording import counted

INPUT, OUTPUT = "images", "features"
# Preprocessing inside: a pixel may differ by one gray level from that of the resize outside, as it does between Pillow and
# torchvision. That changes features by more than the arithmetic does.
TOLERANCE, TOLERANCE_INSIDE = 1e-4, 1e-2


class Normalize(nn.Module):
    """Images (B,S,S,3) uint8 -> (B,3,S,S) float32: `Preprocessing.normalize`."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self._normalized(images.permute(0, 3, 1, 2).float())

    def _normalized(self, pixels: Tensor) -> Tensor:
        return (pixels / 255 - self.mean) / self.std  # type: ignore[operator]


class ResizeAndNormalize(Normalize):
    """Images (B,H,W,3) uint8 of any size -> (B,3,S,S) float32: `Preprocessing.pixels`, to within one gray level.

    The antialiased resize and the crop are one multiplication by a matrix of triangle weights per axis, rounded after each
    as Pillow does, because runtimes disagree about their own resize: onnxruntime's antialiased one differs from Pillow's by
    up to 14 gray levels.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__(preprocessing)
        self.resize, self.crop, self.squash = preprocessing.resize, preprocessing.crop, preprocessing.squash

    def forward(self, images: Tensor) -> Tensor:
        return self._normalized(self.pixels(images))

    def pixels(self, images: Tensor) -> Tensor:
        """(B,H,W,3) uint8 -> (B,3,S,S) float32, whole numbers from 0 to 255."""
        pixels = images.permute(0, 3, 1, 2).float()
        height, width = _length(pixels.shape[2]), _length(pixels.shape[3])
        short = torch.minimum(height, width)
        rows = self._weights(height, short, pixels.shape[2])
        columns = self._weights(width, short, pixels.shape[3])
        return _rounded(rows @ _rounded(pixels @ columns.T))

    def _weights(self, length: Tensor, short: Tensor, count: int) -> Tensor:
        """(crop,count): the share of each of `count` pixels of a side in each pixel of the crop."""
        resized = torch.full_like(length, self.crop) if self.squash else torch.floor(self.resize * length / short)
        scale = length / resized
        start = torch.round((resized - self.crop) / 2)
        centers = (start + torch.arange(self.crop, dtype=torch.float64) + 0.5) * scale
        distances = torch.arange(count, dtype=torch.float64) + 0.5 - centers[:, None]
        weights = torch.relu(1 - distances.abs() / scale.clamp(min=1))
        return (weights / weights.sum(1, keepdim=True)).float()


def _length(count: int) -> Tensor:
    """A side as a float64 tensor: arithmetic on symbolic sizes is not exported by all versions."""
    return torch.arange(1, count + 1, dtype=torch.float64).amax(dim=0)


def _rounded(values: Tensor) -> Tensor:
    # Half up, as Pillow; the excess keeps ties up, whatever the order of a runtime's additions.
    return torch.floor(values + (0.5 + 1e-4)).clamp(0, 255)


class EncoderGraph(nn.Module):
    """Images -> features (B,D).

    Args:
        encoder: takes (B,C,S,S) float32.
        before: what is applied to the images first, if anything.
    """

    def __init__(self, encoder: Encoder, before: nn.Module | None) -> None:
        super().__init__()
        self.before, self.encoder = before, encoder

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images if self.before is None else self.before(images))
        return features


class GraphWriter(Writer):
    """Base of the formats that contain the computation: any encoder."""

    def tolerance(self) -> float:
        return TOLERANCE_INSIDE if self.conversion.preprocessing_in == "inside" else TOLERANCE

    def check(self) -> None:
        channels = self.encoder.variant.channels
        if self.conversion.preprocessing_in != "outside" and channels != 3:
            raise UsageError(
                f"--preprocessing {self.conversion.preprocessing_in} requires an encoder of RGB images; this one takes "
                f"{counted(channels, 'channel')}. Use --preprocessing outside."
            )
        interpolation = self.conversion.preprocessing.interpolation
        if self.conversion.preprocessing_in == "inside" and interpolation != "bilinear":
            raise UsageError(
                f"--preprocessing inside resizes with bilinear interpolation, but images of this encoder are resized with "
                f"{interpolation}. Use --preprocessing outside."
            )

    def module(self) -> EncoderGraph:
        """What is exported, in eval mode."""
        kinds = {"outside": None, "normalize": Normalize, "inside": ResizeAndNormalize}
        kind = kinds[self.conversion.preprocessing_in]
        return EncoderGraph(self.encoder, kind and kind(self.conversion.preprocessing)).eval()

    def example(self) -> Tensor:
        """An input; its batch is 2 because a dimension of size 1 is not exported as dynamic."""
        crop, resize = self.conversion.preprocessing.crop, self.conversion.preprocessing.resize
        if self.conversion.preprocessing_in == "outside":
            return torch.zeros(2, self.encoder.variant.channels, crop, crop)
        sides = (resize + 13, resize + 29) if self.conversion.preprocessing_in == "inside" else (crop, crop)
        return torch.zeros(2, *sides, 3, dtype=torch.uint8)

    def dynamic(self) -> dict[int, str]:
        """Dimension of the input -> name, for those that may have any size."""
        sides = {1: "height", 2: "width"} if self.conversion.preprocessing_in == "inside" else {}
        return {0: "batch"} | sides

    def inputs(self, samples: Samples) -> list[Tensor]:
        """Batches as the graph takes them: one of all images, or one per image with the preprocessing inside."""
        if self.conversion.preprocessing_in == "outside":
            return [samples.normalized]
        if self.conversion.preprocessing_in == "normalize":
            return [samples.pixels.permute(0, 2, 3, 1).contiguous()]
        return [torch.tensor(image)[None] for image in samples.images]

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {
            "preprocessing_in": self.conversion.preprocessing_in,
            "input": self.input_sentence(),
        }

    def input_sentence(self) -> str:
        """What the graph takes and returns."""
        crop, width = self.conversion.preprocessing.crop, self.encoder.width
        takes = {
            "outside": f"float32 (batch, {self.encoder.variant.channels}, {crop}, {crop}), resized, cropped and normalized",
            "normalize": f"uint8 RGB (batch, {crop}, {crop}, 3), resized and cropped",
            "inside": "uint8 RGB (batch, height, width, 3) of any size",
        }[self.conversion.preprocessing_in]
        return f"{INPUT}: {takes}; {OUTPUT}: float32 (batch, {width})"


def exported_program(writer: GraphWriter) -> torch.export.ExportedProgram:
    """The graph, without the paths of source files that torch stores in it."""
    shapes: Any = ({dimension: torch.export.Dim(name) for dimension, name in writer.dynamic().items()},)
    with quiet():
        program = torch.export.export(writer.module(), (writer.example(),), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        for name in ("stack_trace", "from_node"):
            node.meta.pop(name, None)
    return program
