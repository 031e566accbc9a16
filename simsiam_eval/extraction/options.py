"""The options that decide what is extracted, and the options that would give features comparable to a feature file's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.errors import DataError
from simsiam_eval.images.preprocess import Preprocessing, preprocessing_for

if TYPE_CHECKING:
    from simsiam_eval.encoders.checkpoint import CheckpointReport


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """How features are taken from images; the defaults are those of `extract`.

    Attributes:
        layers: outputs of the encoder, all from one pass; the first is `features` of the file.
        pooling: avg or max over the spatial positions of a layer.
        transform: auto (as the encoder was trained), imagenet, cifar or squash; `resize`, `crop` and `decode` override it.
        flip_average: features are the mean of those of the image and of its mirror image.
        normalize: features have length 1.
        views: augmented views per image in addition to the center crop, drawn from `seed` and the row.
        precision: float32 or bf16, of the encoder's arithmetic.
        dtype: float32 or float16, of the features in the file.
        compile: whether the encoder runs through torch.compile.
        batch: images per forward pass; None: 8 on a CPU, where every core computes batches of its own, and 256 on a GPU.
        workers: decoding processes; None: chosen by the device.
        fingerprint: content or listing: what identifies the dataset.
        strict: whether the first unreadable image is an error.
    """

    layers: tuple[str, ...] = ("pool",)
    pooling: str = "avg"
    transform: str = "auto"
    resize: int | None = None
    crop: int | None = None
    decode: str | None = None
    flip_average: bool = False
    normalize: bool = False
    views: int = 0
    seed: int = 0
    precision: str = "float32"
    dtype: str = "float32"
    compile: bool = False
    batch: int | None = None
    workers: int | None = None
    fingerprint: str = "content"
    strict: bool = False

    def preprocessing(self, report: CheckpointReport) -> Preprocessing:
        """How images are prepared for the encoder of a checkpoint."""
        return preprocessing_for(
            report.stem,
            report.metadata,
            transform=self.transform,
            resize=self.resize,
            crop=self.crop,
            decode=self.decode,
        )


def options_like(
    attributes: Mapping[str, Any],
    options: ExtractionOptions,
    layers: Sequence[str] | None = None,
    every_column: bool = False,
) -> ExtractionOptions:
    """`options`, but with what makes new features comparable to those that the attributes of a feature file describe:
    layer, pooling, flip_average, normalize and precision.

    Args:
        layers: default: the one of the file's `features`.
        every_column: the file's further layers and its views too; default: no views.
    """
    encoder, views = attributes["encoder"], (attributes.get("views") or {}) if every_column else {}
    layers = list(layers or [encoder.get("layer", "pool")])
    if every_column:
        layers += [name.removeprefix("layers/") for name in attributes["columns"] if name.startswith("layers/")]
    return replace(
        options,
        layers=tuple(layers),
        pooling=encoder.get("pooling", "avg"),
        flip_average=bool(encoder.get("flip_average")),
        normalize=bool(encoder.get("normalize")),
        precision=attributes.get("precision") or options.precision,
        views=views.get("count", 0),
        seed=views.get("seed", options.seed),
    )


def preprocessing_of(attributes: Mapping[str, Any], name: str | Path) -> Preprocessing:
    """How the images of the features in the file `name` were prepared.

    Raises:
        DataError: the attributes do not say.
    """
    try:
        return Preprocessing.from_dict(attributes["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{name} does not record how its images were prepared, so other images cannot be prepared like them; "
            "pass features instead of images."
        ) from error
