"""Settings that commands share: how features are extracted, and sets given as feature files or images.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.settings import (
    DeviceSettings,
    LabelSettings,
    PrecisionSettings,
    SeedSettings,
    option_name,
    setting,
)
from simsiam_eval.commands.unreadable import max_unreadable_setting
from simsiam_eval.encoders.settings import CHOICE_NAMES, CheckpointSettings
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.pixel_settings import PixelSettings
from simsiam_eval.sources.spec import is_feature_file, is_index_file
from simsiam_eval.vocabulary import DECODINGS, LAYERS, POOLINGS

if TYPE_CHECKING:
    from simsiam_eval.extraction.options import ExtractionOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSettings(CheckpointSettings, LabelSettings, PixelSettings, DeviceSettings, PrecisionSettings):
    """How features are extracted from images: for `extract` and every command that takes images with a checkpoint."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "fingerprint max_unreadable strict",
        "features": "layer pool flip_average normalize dtype",
        "preprocessing": "transform resize crop decode",
        "machine": "compile extract_batch workers",
    }

    layer: tuple[str, ...] = setting(
        ("pool",),
        choices=LAYERS,
        help="Encoder layer; pool is the average-pooled output (pool5). Comma-separated for several: the first is stored "
        "as `features`, the others as layers/NAME.",
    )
    pool: str = setting(
        "auto",
        choices=POOLINGS,
        help="Pooling: avg or max over the spatial positions of feature maps; cls (class token), mean (of the patch tokens) "
        "or cls+mean (both, concatenated) of a vision transformer; auto: avg, or what the transformer itself uses.",
    )
    transform: str = setting(
        "auto",
        choices=("auto", "imagenet", "cifar", "squash"),
        help="Image preprocessing: auto (as recorded in the checkpoint, else by the stem), imagenet (resize 256, crop "
        "224), cifar (32 px) or squash (the whole image resized to a 224 px square).",
    )
    resize: int | None = setting(
        None,
        at_least=1,
        at_most=8192,
        help="Short side before the center crop, in pixels (default: from --transform).",
    )
    crop: int | None = setting(None, at_least=1, help="Side of the center crop, in pixels (default: from --transform).")
    flip_average: bool = setting(False, help="Average the features of the image and its mirror image.")
    normalize: bool = setting(False, help="L2-normalize the features.")
    decode: str | None = setting(
        None,
        choices=DECODINGS,
        help="JPEG decoding: full, or scaled (large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size; faster). "
        "Default: as recorded in the checkpoint, else full.",
    )
    dtype: str = setting("float32", choices=("float32", "float16"), help="Data type of the stored features.")
    compile: str = setting(
        "off",
        choices=("on", "off"),
        help="Compile the encoder with torch.compile (on a CPU instead of fusing ReLUs and sums).",
    )
    extract_batch: int | None = setting(
        None,
        at_least=1,
        help="Images per forward pass (default: 8 per core on a CPU, 256 on a GPU).",
    )
    workers: int | None = setting(
        None,
        at_least=0,
        help="Number of decoding processes (default: on a GPU one per core, at most 16, and 0 for images in memory; on a "
        "CPU 0, because every core decodes its own batches).",
    )
    fingerprint: str = setting(
        "content",
        choices=("content", "listing"),
        help="How the dataset is fingerprinted: by content (read once, then cached) or by file listing (ids, labels and "
        "sizes; for sources too large to read twice).",
    )
    max_unreadable: float = max_unreadable_setting()
    strict: bool = setting(False, help="Stop at the first unreadable image instead of skipping it.")

    def extraction(self) -> ExtractionOptions:
        return dataclasses.replace(
            super().extraction(),
            layers=self.layer,
            pooling=self.pool,
            transform=self.transform,
            resize=self.resize,
            crop=self.crop,
            decode=self.decode,
            flip_average=self.flip_average,
            normalize=self.normalize,
            precision=self.precision,
            dtype=self.dtype,
            compile=self.compile == "on",
            batch=self.extract_batch,
            workers=self.workers,
            no_label=self.no_label,
            fingerprint=self.fingerprint,
            strict=self.strict,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSettings(FeatureSettings, SeedSettings):
    """Adds the number of augmented views, for commands that use their features."""

    GROUPS: ClassVar[dict[str, str]] = {"features": "views"}

    views: int = setting(
        0,
        at_least=0,
        help="Number of augmented views per image (RandomResizedCrop and flip, drawn from --seed and the row), in addition "
        "to the center crop, for linear evaluation with augmentation; stored as `views` (N,V,D).",
    )

    def extraction(self) -> ExtractionOptions:
        return dataclasses.replace(super().extraction(), views=self.views, seed=self.seed)


def leakage_setting() -> Any:
    """--leakage of the commands that evaluate an encoder on a test set or on queries."""
    return setting(
        0.99,
        above=0,
        at_most=1,
        help="Similarity threshold for train/test leakage; leaked images are counted, and accuracy is also reported without "
        "them.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSettings(FeatureSettings):
    """Sets as feature files, or as images with the checkpoint of an encoder."""

    SETS: ClassVar[tuple[str, ...]]  # names of the settings that are sets
    GROUPS: ClassVar[dict[str, str]] = {"encoder": "checkpoint"}

    # Names of extraction settings that the command also applies to a feature file, and whether it reads several layers.
    ON_FILES: ClassVar[frozenset[str]] = frozenset({"layer", "max_unreadable"})
    SEVERAL_LAYERS: ClassVar[bool] = False

    checkpoint: str | None = setting(
        None, help="Checkpoint of the encoder, for sets given as images; their features are cached."
    )

    def check(self) -> None:
        super().check()
        if len(self.layer) > 1 and not self.SEVERAL_LAYERS:
            raise UsageError(f"Give one --layer; got {', '.join(self.layer)}.")
        if not self._only_files():
            return
        for name in self._extraction_names():
            default = next(field.default for field in dataclasses.fields(self) if field.name == name)
            if getattr(self, name) != default:
                verb = "contains" if len(self._sets()) == 1 else "contain"
                raise UsageError(
                    f"{option_name(name)} applies to images only; {' and '.join(self._sets())} already {verb} features."
                )

    def to_dict(self) -> dict[str, Any]:
        """As `Settings.to_dict`, without extraction settings if all sets are feature files, and without those of a
        checkpoint if none is given."""
        left_out = self._extraction_names() if self._only_files() else []
        left_out += CHOICE_NAMES if self.checkpoint is None else ()
        return {name: value for name, value in super().to_dict().items() if name not in left_out}

    def _sets(self) -> list[str]:
        return list(filter(None, (getattr(self, name) for name in self.SETS)))

    def _only_files(self) -> bool:
        return all(is_feature_file(spec) or is_index_file(spec) for spec in self._sets())

    def _extraction_names(self) -> list[str]:
        names = [field.name for field in dataclasses.fields(FeatureSettings)]
        return [name for name in names if name not in self.ON_FILES | {"device", *CHOICE_NAMES}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(EncoderSettings):
    """A training set and a test set."""

    SETS = ("train", "test")
    GROUPS: ClassVar[dict[str, str]] = {"data": "train test", "evaluation": "leakage"}

    train: str = setting(help="Training set: a feature file (.h5), or an image source with --checkpoint.")
    test: str = setting(help="Test set: a feature file (.h5), or an image source with --checkpoint.")
    leakage: float = leakage_setting()
