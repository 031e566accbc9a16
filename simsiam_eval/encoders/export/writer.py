"""What every format implements: write an encoder, and read it back with the program that the file is for."""

from __future__ import annotations

import importlib.metadata
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from simsiam_eval.encoders.architectures import TrunkVariant
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
class Subject:
    """What is written.

    Attributes:
        encoder: in eval mode, on the CPU.
        report: of the checkpoint that it was loaded from.
        preprocessing: of its images.
        preprocessing_in: what a graph contains of it, one of PREPROCESSING_IN.
        opset: of ONNX.
    """

    encoder: Encoder
    report: CheckpointReport
    preprocessing: Preprocessing
    preprocessing_in: str = "outside"
    opset: int = 18

    def metadata(self) -> dict[str, str]:
        """What is stored in a file about its encoder, as strings."""
        about = {
            "arch": self.encoder.arch,
            **({} if self.encoder.stem is None else {"stem": self.encoder.stem}),
            "pooling": self.encoder.pooling,
            "feature_width": str(self.encoder.width),
            "family": self.report.family,
            "weights_sha256": self.report.weights_sha256,
            "preprocessing": json.dumps(self.preprocessing.to_dict()),
            "written_by": version_of("simsiam-eval"),
        }
        if self.report.variant:
            about["variant"] = json.dumps(self.report.variant)
        if self.report.epoch is not None:
            about["epoch"] = str(self.report.epoch)
        return about


class Writer(ABC):
    """Writes one encoder in one format.

    Args:
        subject: what to write.

    Attributes:
        LIBRARY: the program that reads the file, as messages name it.
        TOLERANCE: largest permitted difference of a feature, relative to the largest feature.
    """

    LIBRARY: ClassVar[str]
    TOLERANCE: ClassVar[float] = 1e-6

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.encoder = subject.encoder

    def tolerance(self) -> float:
        """TOLERANCE, if it does not depend on the subject."""
        return self.TOLERANCE

    @abstractmethod
    def check(self) -> None:
        """Reject, before any work, what the format cannot express, and packages that are missing.

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

    @abstractmethod
    def missing(self) -> str | None:
        """The packages that the comparison lacks; None if it can be made."""

    @abstractmethod
    def consumer(self) -> str:
        """The program that reads the file and its version, for the record."""

    @abstractmethod
    def features(self, path: Path, samples: Samples) -> Tensor:
        """(B,D): what that program computes from the file."""

    @abstractmethod
    def notes(self, path: Path) -> list[str]:
        """Sentences or lines of code on how to use the file at `path`."""


class ResNetWriter(Writer):
    """Base of the formats whose program builds a ResNet of its own and loads the weights into it.

    Attributes:
        CARRIES: attributes of a TrunkVariant that the program can express.
        CIFAR: whether it can express the CIFAR stem.
        encoder: a ResNet of torchvision.
    """

    CARRIES: ClassVar[frozenset[str]] = frozenset()
    CIFAR: ClassVar[bool] = True
    encoder: ResNetEncoder

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        if not isinstance(subject.encoder, ResNetEncoder):
            raise UsageError(
                f"{self.LIBRARY} cannot rebuild {subject.encoder.arch} from its weights; expected a ResNet of torchvision. "
                f"{_USE_A_GRAPH}"
            )
        self.encoder = subject.encoder

    def check(self) -> None:
        stem = self.encoder.stem
        full, plain = (asdict(variant.completed(stem)) for variant in (self.encoder.variant, TrunkVariant()))
        differences = [
            _REASONS[name].format(full[name]) for name in full if full[name] != plain[name] and name not in self.CARRIES
        ]
        if stem == "cifar" and not self.CIFAR:
            differences.insert(0, "the 3x3 stem of CIFAR's ResNets")
        if differences:
            raise UsageError(f"{self.LIBRARY} cannot rebuild this encoder ({', '.join(differences)}). {_USE_A_GRAPH}")


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
