"""What every format implements: write an encoder, and read it back with the program that the file is for."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from simsiam_eval.encoders.architectures import NOT_IN_TORCHVISION
from simsiam_eval.encoders.encoder import Encoder, ResNetEncoder
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.report import CheckpointReport
from simsiam_eval.errors import UsageError
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.machine import version

_REASONS = {
    "channels": "input channels: {}",
    "stem_stride": "stride {} in the first convolution",
    "stem_padding": "padding {} in the first convolution",
    "stem_pool": "max pooling in the stem: {}",
    "stem_relu": "no ReLU in the stem",
    "stride_in_1x1": "strides in the 1x1 convolutions",
    "output_stride": "output stride {}",
}
_USE_A_GRAPH = "Use --to onnx, torch-export or openvino, which contain the computation itself."


@dataclass(frozen=True)
class Conversion:
    """What is written, and how.

    Attributes:
        encoder: in eval mode, on the CPU.
        report: of the checkpoint that it was loaded from.
        preprocessing: of its images.
        out: path that the file or folder gets.
        preprocessing_in: what a graph contains of the preprocessing, one of PREPROCESSING_IN.
        opset: of ONNX.
        preset: of `detect`, for the config of a detector.
    """

    encoder: Encoder
    report: CheckpointReport
    preprocessing: Preprocessing
    out: Path
    preprocessing_in: str = "outside"
    opset: int = 18
    preset: str = "voc0712"


class Writer(ABC):
    """Writes one encoder in one format.

    Args:
        conversion: what to write.

    Attributes:
        LIBRARY: the program that reads the file, as messages name it.
        PACKAGE: of that program, without which there is no comparison.
        TOLERANCE: largest permitted difference of a feature, relative to the largest feature.
    """

    LIBRARY: ClassVar[str]
    PACKAGE: ClassVar[str]
    TOLERANCE: ClassVar[float] = 1e-6

    def __init__(self, conversion: Conversion) -> None:
        self.conversion = conversion
        self.encoder = conversion.encoder

    def tolerance(self) -> float:
        """TOLERANCE, if it does not depend on the conversion."""
        return self.TOLERANCE

    def metadata(self) -> dict[str, str]:
        """What is stored in the file about its encoder, as strings."""
        report = self.conversion.report
        about = {
            "arch": self.encoder.arch,
            **({} if self.encoder.stem is None else {"stem": self.encoder.stem}),
            "pooling": self.encoder.pooling,
            "feature_width": str(self.encoder.width),
            "family": report.family,
            "weights_sha256": report.weights_sha256,
            "preprocessing": json.dumps(self.conversion.preprocessing.to_dict()),
            "written_by": version_of("simsiam-eval"),
        }
        if variant := self.encoder.variant.to_dict(self.encoder.stem):
            about["variant"] = json.dumps(variant)
        if report.epoch is not None:
            about["epoch"] = str(report.epoch)
        return about

    @abstractmethod
    def check(self) -> None:
        """Reject, before any work, what the format cannot express, and packages without which it cannot be written.

        Raises:
            UsageError: a sentence with the reason.
        """

    @abstractmethod
    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the file or folder.

        Args:
            path: of the file, or of an existing, empty folder.
            metadata: to store in it, if the format has a place for it.
        """

    def weights(self, path: Path) -> dict[str, Tensor] | None:
        """torchvision's key -> weight, read from the file; None if the format stores no weights by name."""
        return None

    def missing(self) -> str | None:
        """What the comparison lacks, as a clause; None if it can be made."""
        return missing_packages(self.PACKAGE)

    def consumer(self) -> str:
        """The program that reads the file and its version, for the record."""
        return version_of(self.PACKAGE)

    @abstractmethod
    def features(self, path: Path, samples: Samples) -> Tensor:
        """(B,D): what that program computes from the file."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Sentences or lines of code on how to use the file."""


class ResNetWriter(Writer):
    """Base of the formats whose program builds a ResNet of its own and loads the weights into it.

    Attributes:
        CARRIES: what the program can express: attributes of a TrunkVariant, and "cifar", the stem.
        encoder: a ResNet of torchvision.
    """

    CARRIES: ClassVar[frozenset[str]] = frozenset()
    encoder: ResNetEncoder

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        if not isinstance(conversion.encoder, ResNetEncoder):
            raise UsageError(
                f"{self.LIBRARY} cannot rebuild {conversion.encoder.arch} from its weights; expected a ResNet of "
                f"torchvision. {_USE_A_GRAPH}"
            )
        self.encoder = conversion.encoder

    def checkpoint_metadata(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Under METADATA_KEY in a checkpoint: the metadata, and what `load_encoder` reads of it."""
        return {
            "preprocessing": self.conversion.preprocessing.to_dict(),
            "variant": self.encoder.variant.to_dict(self.encoder.stem),
            "conversion": dict(metadata),
        }

    def check(self) -> None:
        stem, variant = self.encoder.stem, self.encoder.variant
        if differences := trunk_differences(self.encoder.arch, stem, variant.to_dict(stem), self.CARRIES):
            raise UsageError(f"{cannot_rebuild(self.LIBRARY, differences)}. {_USE_A_GRAPH}")


def trunk_differences(arch: str, stem: str, variant: Mapping[str, Any], carries: Collection[str]) -> list[str]:
    """What a trunk has that a program cannot express, as phrases.

    Args:
        arch: a name in ARCHITECTURES.
        stem: imagenet or cifar.
        variant: as from `TrunkVariant.to_dict`.
        carries: as ResNetWriter.CARRIES.

    >>> trunk_differences("resnet18", "cifar", {"stem_padding": 2, "channels": 1}, {"channels"})
    ["the 3x3 stem of CIFAR's ResNets", 'padding 2 in the first convolution']
    """
    archs = [f"the architecture {arch}"] if arch in NOT_IN_TORCHVISION else []
    stems = [] if stem != "cifar" or "cifar" in carries else ["the 3x3 stem of CIFAR's ResNets"]
    return archs + stems + [_REASONS[name].format(value) for name, value in variant.items() if name not in carries]


def cannot_rebuild(library: str, differences: list[str]) -> str:
    """A clause for messages, with phrases from `trunk_differences`."""
    return f"{library} cannot rebuild this encoder ({', '.join(differences)})"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of another program, which a user can do nothing about."""
    before = logging.root.manager.disable  # by an outer block
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def version_of(package: str) -> str:
    """`package` and its installed version.

    >>> version_of("numpy").startswith("numpy ")
    True
    """
    return f"{package} {version(package)}"


def missing_packages(*packages: str) -> str | None:
    """The packages among these that are not installed, for a sentence; None if all are.

    >>> missing_packages("numpy", "no-such-package")
    'no-such-package is not installed'
    """
    absent = []
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            absent.append(package)
    if not absent:
        return None
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed"
