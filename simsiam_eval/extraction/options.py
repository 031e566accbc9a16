"""The options of an extraction, and those that make new features comparable to a feature file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.fields import option_name
from simsiam_eval.encoders.architectures import ARCHITECTURES, TrunkVariant
from simsiam_eval.encoders.choice import VARIANT_OPTIONS, EncoderChoice
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.features.provenance import reject_images
from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.intensity import AUTO, Intensity
from simsiam_eval.images.preprocess import Preprocessing, preprocessing_for
from simsiam_eval.sources.intensity import report_range, source_intensity
from simsiam_eval.vocabulary import NO_LABEL, STEMS

if TYPE_CHECKING:
    from simsiam_eval.encoders.report import CheckpointReport
    from simsiam_eval.sources.base import ImageSource


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """How features are extracted from images; the defaults are those of `extract`.

    Attributes:
        layers: layers of the encoder, computed in one forward pass; the first becomes the dataset `features`.
        pooling: a name in POOLINGS; auto: the one of the architecture.
        transform: auto (as the encoder was trained), imagenet, cifar or squash; `resize`, `crop` and `decode` override it.
        mean, std: of the normalization, as fractions of 1: one value per channel or one for all; None: as the encoder was
            trained.
        selection: the channels of the images as they are stored; None: 8-bit RGB or gray.
        intensity: which values of images of more than 8 bits are black and white: the setting, or those of other images.
        flip_average: whether to average the features of the image and its mirror image.
        normalize: whether to L2-normalize the features.
        views: number of augmented views per image besides the center crop, drawn from `seed` and the row.
        precision: float32 or bf16, the arithmetic of the encoder.
        dtype: float32 or float16, the data type of the stored features.
        compile: whether to run the encoder through torch.compile.
        batch: images per forward pass; None: 8 per core on a CPU, 256 on a GPU.
        workers: number of decoding processes; None: depends on the device.
        no_label: label texts that mean that there is no label.
        fingerprint: content or listing, how the dataset is fingerprinted.
        strict: whether an unreadable image is an error instead of being skipped.
    """

    layers: tuple[str, ...] = ("pool",)
    pooling: str = "auto"
    transform: str = "auto"
    resize: int | None = None
    crop: int | None = None
    decode: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    selection: ChannelSelection | None = None
    intensity: str | Intensity = AUTO
    flip_average: bool = False
    normalize: bool = False
    views: int = 0
    seed: int = 0
    precision: str = "float32"
    dtype: str = "float32"
    compile: bool = False
    batch: int | None = None
    workers: int | None = None
    no_label: tuple[str, ...] = NO_LABEL
    fingerprint: str = "content"
    strict: bool = False

    def as_settings(self) -> dict[str, Any]:
        """The settings of a loaded encoder that decide how its images are prepared."""
        selection = {} if self.selection is None else self.selection.to_dict()
        given = {"transform": self.transform, "mean": self.mean, "std": self.std, "intensity": self.intensity}
        return given | selection

    def preprocessing(self, report: CheckpointReport) -> Preprocessing:
        """The preprocessing of images for the encoder of a checkpoint; `preprocessing_on` completes it for a source."""
        return preprocessing_for(
            report.stem,
            report.metadata or {"preprocessing": report.preprocessing},
            report.normalization,
            transform=self.transform,
            resize=self.resize,
            crop=self.crop,
            decode=self.decode,
            mean=self.mean,
            std=self.std,
            channels=TrunkVariant.from_dict(report.variant).channels,
            selection=self.selection,
            intensity=self.intensity,
        )

    def preprocessing_on(self, source: ImageSource, report: CheckpointReport) -> Preprocessing:
        """The preprocessing of the images of a source for the encoder of a checkpoint. Raises as `completed`."""
        return self.completed(self.preprocessing(report), source)

    def completed(self, preprocessing: Preprocessing, source: ImageSource) -> Preprocessing:
        """A preprocessing with the values that are black and white in the images of a source.

        Raises:
            DataError: with selected channels, the scale of the values is unclear.
        """
        if isinstance(self.intensity, Intensity):
            report_range(source, self.intensity, preprocessing.selection)
            return replace(preprocessing, intensity=self.intensity)
        known, selection = preprocessing.intensity, preprocessing.selection
        return replace(preprocessing, intensity=source_intensity(source, self.intensity, selection, known))

    def with_scale_of(self, attributes: Mapping[str, Any]) -> ExtractionOptions:
        """The options with the black and white of features, unless they are fixed already.

        Args:
            attributes: root attributes of the features.
        """
        fixed = isinstance(self.intensity, Intensity) or Intensity.parse(self.intensity) is not None
        recorded = (attributes.get("preprocessing") or {}).get("intensity")
        return self if fixed else replace(self, intensity=Intensity.from_json(recorded))


def options_like(
    attributes: Mapping[str, Any],
    options: ExtractionOptions,
    layers: Sequence[str] | None = None,
    every_column: bool = False,
) -> ExtractionOptions:
    """`options` with the layer, pooling, flip_average, normalize and precision of a feature file.

    Args:
        attributes: root attributes of the feature file.
        layers: layers to extract; default: the layer of the dataset `features`.
        every_column: whether to also extract the file's further layers and its views.
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


def choice_like(attributes: Mapping[str, Any], choice: EncoderChoice, name: str | Path) -> EncoderChoice:
    """`choice` with the variant of the trunk that a feature file records.

    Args:
        attributes: root attributes of the file.
        name: of the file, for the message.

    Raises:
        UsageError: an option of the choice contradicts the file.
    """
    encoder = attributes.get("encoder") or {}
    if choice.is_named or encoder.get("arch") not in ARCHITECTURES or encoder.get("stem") not in STEMS:
        return choice
    recorded = TrunkVariant.from_dict(encoder.get("variant") or {}).completed(encoder["stem"])
    values = {option: getattr(recorded, option) for option in VARIANT_OPTIONS}
    for option, value in values.items():
        if getattr(choice, option) not in (None, value):
            raise UsageError(
                f"{option_name(option)} contradicts {name}, whose encoder has {option.replace('_', ' ')} {value}; "
                "leave it out."
            )
    return replace(choice, **values)


def option_hint(attributes: Mapping[str, Any], choice: EncoderChoice) -> str:
    """The end of a message about features of another encoder: their options that were not given."""
    encoder = attributes.get("encoder") or {}
    missing = [
        f"{option_name(name)} {encoder[name]}"
        for name in ("branch", "channel_order")
        if encoder.get(name) and getattr(choice, name) is None
    ]
    return f"; the features are of {' '.join(missing)}" if missing else ""


def preprocessing_of(attributes: Mapping[str, Any], name: str | Path) -> Preprocessing:
    """The preprocessing that a feature file records.

    Args:
        attributes: root attributes of the file.
        name: of the file, for the message.

    Raises:
        DataError: none is recorded, or it is damaged.
    """
    reject_images(attributes, str(name))
    try:
        return Preprocessing.from_dict(attributes["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{name} does not record how its images were preprocessed, so other images cannot be preprocessed in the same "
            "way; pass features instead of images."
        ) from error
