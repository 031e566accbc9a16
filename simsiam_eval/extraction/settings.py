"""Settings that commands share: how features are taken from images, and sets given as feature files or as images.

Needs no torch, as settings.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, option_name, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import DECODINGS, FEATURE_ENDINGS, INDEX_ENDING, LAYERS, POOLINGS

if TYPE_CHECKING:
    from simsiam_eval.extraction.options import ExtractionOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSettings(DeviceSettings, PrecisionSettings):
    """How features are taken from images: shared by `extract` and by every task that extracts first (contract 4)."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "fingerprint strict",
        "features": "layer pool flip_average normalize dtype",
        "preprocessing": "transform resize crop decode",
        "machine": "compile extract_batch workers",
    }

    layer: tuple[str, ...] = setting(
        ("pool",),
        choices=LAYERS,
        help="Which output of the encoder; pool is the trunk's own pool5. Several: all come from one pass, the "
        "first is `features` of the file, the others lie under layers/.",
    )
    pool: str = setting("avg", choices=POOLINGS, help="How the spatial positions of the layer become one vector.")
    transform: str = setting(
        "auto",
        choices=("auto", "imagenet", "cifar", "squash"),
        help="auto: as the encoder was trained; imagenet: 256, crop 224; cifar: 32; squash: the whole image to a square.",
    )
    resize: int | None = setting(
        None,
        at_least=1,
        at_most=8192,
        help="Short side in pixels before the center crop; default: that of --transform.",
    )
    crop: int | None = setting(
        None, at_least=1, help="Side of the center crop in pixels; default: that of --transform."
    )
    flip_average: bool = setting(False, help="Features are the mean of those of the image and of its mirror image.")
    normalize: bool = setting(False, help="Features are scaled to length one.")
    decode: str | None = setting(
        None,
        choices=DECODINGS,
        help="full, or scaled: JPEGs much larger than needed are decoded to a half, quarter or eighth of their sides; "
        "default: as the checkpoint says, else full.",
    )
    dtype: str = setting("float32", choices=("float32", "float16"), help="Stored precision of the features.")
    compile: str = setting(
        "off", choices=("on", "off"), help="torch.compile of the encoder; on a CPU instead of fusing its blocks."
    )
    extract_batch: int | None = setting(
        None,
        at_least=1,
        help="Images per forward pass; default: 8 on a CPU, where every core makes its own, and 256 on a GPU.",
    )
    workers: int | None = setting(
        None,
        at_least=0,
        help="Decoding processes; default: for a GPU one per core, at most 16, none for images in memory; on a CPU none, "
        "since its cores decode for themselves.",
    )
    fingerprint: str = setting(
        "content",
        choices=("content", "listing"),
        help="What tells that the images are the same: their content, which is read once and remembered; or ids, labels and "
        "sizes only, for sources too large to be read twice.",
    )
    strict: bool = setting(False, help="Stop at the first unreadable image instead of skipping it by name.")

    def extraction(self) -> ExtractionOptions:
        """These settings as the plain options of an extraction."""
        from simsiam_eval.extraction.options import ExtractionOptions

        return ExtractionOptions(
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
            fingerprint=self.fingerprint,
            strict=self.strict,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSettings(FeatureSettings, SeedSettings):
    """For commands that use the features of augmented views."""

    GROUPS: ClassVar[dict[str, str]] = {"features": "views"}

    views: int = setting(
        0,
        at_least=0,
        help="Augmented views per image beside the center crop (RandomResizedCrop and flip, drawn from --seed and the row), "
        "for the linear protocol with augmentation; dataset `views` (N,V,D).",
    )

    def extraction(self) -> ExtractionOptions:
        return dataclasses.replace(super().extraction(), views=self.views, seed=self.seed)


def is_feature_file(spec: str) -> bool:
    """Whether a --train or --test value names a feature file rather than an image source.

    >>> is_feature_file("runs/train.h5"), is_feature_file("hdf5:images.h5"), is_feature_file("digits")
    (True, False, False)
    """
    path = Path(spec)
    return path.suffix.lower() in FEATURE_ENDINGS and (":" not in spec or path.exists())


def is_index_file(spec: str) -> bool:
    """Whether a --gallery value names an index file of `retrieval build`."""
    return Path(spec).suffix.lower() == INDEX_ENDING


def leakage_setting() -> Any:
    """--leakage of the commands that judge an encoder by its neighbors of another set."""
    return setting(
        0.99,
        above=0,
        at_most=1,
        help="Cosine similarity to a training (gallery) image from which a test image (query) is called its near-duplicate: "
        "their number is said, and the accuracy without them.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSettings(FeatureSettings):
    """Sets as feature files, or as images with the checkpoint of an encoder."""

    SETS: ClassVar[tuple[str, ...]]  # names of the settings that are sets
    GROUPS: ClassVar[dict[str, str]] = {"encoder": "checkpoint"}

    # Names of extraction's settings that the task also applies to a feature file, and whether it reads several layers.
    ON_FILES: ClassVar[frozenset[str]] = frozenset({"layer"})
    SEVERAL_LAYERS: ClassVar[bool] = False

    checkpoint: Path | None = setting(None, help="Encoder whose features are extracted (into a cache) from images.")

    def check(self) -> None:
        super().check()
        if len(self.layer) > 1 and not self.SEVERAL_LAYERS:
            raise UsageError(f"Give one --layer; got {', '.join(self.layer)}.")
        if not self._only_files():
            return
        for name in self._of_extraction():
            default = next(field.default for field in dataclasses.fields(self) if field.name == name)
            if getattr(self, name) != default:
                verb = "holds" if len(self._sets()) == 1 else "hold"
                raise UsageError(
                    f"{option_name(name)} is for images: {' and '.join(self._sets())} {verb} features already."
                )

    def to_dict(self) -> dict[str, Any]:
        """As Settings'; without the settings of an extraction that did not happen."""
        left_out = self._of_extraction() if self._only_files() else ()
        return {name: value for name, value in super().to_dict().items() if name not in left_out}

    def _sets(self) -> list[str]:
        return list(filter(None, (getattr(self, name) for name in self.SETS)))

    def _only_files(self) -> bool:
        return all(is_feature_file(one) or is_index_file(one) for one in self._sets())

    def _of_extraction(self) -> list[str]:
        names = [field.name for field in dataclasses.fields(FeatureSettings)]
        return [name for name in names if name not in self.ON_FILES | {"device"}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(EncoderSettings):
    """A training and a test set."""

    SETS = ("train", "test")
    GROUPS: ClassVar[dict[str, str]] = {"data": "train test", "evaluation": "leakage"}

    train: str = setting(help="Training set: a feature file (.h5), or an image source with --checkpoint.")
    test: str = setting(help="Test set: a feature file (.h5), or an image source with --checkpoint.")
    leakage: float = leakage_setting()
