"""One checkpoint that a real toolkit wrote, what its own encoder computes, and what is expected of `load_encoder`.

A case is a folder, the same for all toolkits:

    NAME/FILE          the checkpoint as the toolkit saves it: a file or a folder, named by "file" in case.json
    NAME/expected.npz  images (4, C, S, S) float32, the encoder's input, and features (4, D) float32, what the toolkit's
                       own encoder computes of them in eval mode, averaged over positions; absent where nothing is loaded
    NAME/case.json     the fields of `Case`
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# "assume": loaded with a named assumption; "either": a clear sentence is as good as the encoder.
EXPECTATIONS = ("load", "assume", "reject", "either")


@dataclass(frozen=True)
class Case:
    """What is expected of a file.

    Attributes:
        name: of the case's folder.
        file: path of the checkpoint, relative to the case's folder.
        written_by: toolkit and version.
        expect: a name in EXPECTATIONS.
        family: as reported by `inspect`; None where it does not matter.
        arch, stem, variant: as in CheckpointReport; None where they do not matter.
        projector, predictor: widths, [] for none; None where they do not matter.
        reason: regular expression that the message of a rejection contains.
        choice: what a user has to say besides the path: fields of EncoderChoice, such as {"branch": "student"}.
        note: what is special, for a reader.
    """

    name: str
    file: str
    written_by: str
    expect: str = "load"
    family: str | None = None
    arch: str | None = None
    stem: str | None = None
    variant: dict[str, Any] | None = None
    projector: list[int] | None = None
    predictor: list[int] | None = None
    reason: str | None = None
    choice: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        assert self.expect in EXPECTATIONS, f"{self.name} expects {self.expect}"

    def to_dict(self) -> dict[str, Any]:
        """The fields that are not None or empty."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, "", {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Case:
        """What `to_dict` returned."""
        return cls(**values)


def read_case(folder: Path) -> Case:
    """The case of a folder."""
    return Case.from_dict(json.loads((folder / "case.json").read_text()))


Network = TypeVar("Network", bound=nn.Module)
Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Written:
    """The file that was written, relative to the case's folder, and the toolkit's encoder: images -> features or maps."""

    file: str
    encode: Encode | None = None
    size: int = 64
    channels: int = 3


@dataclass(frozen=True)
class Builder:
    """How to make a case: `write(folder)` with the toolkit's packages, and the fields of `Case` that are known before."""

    name: str
    packages: tuple[str, ...]
    write: Callable[[Path], Written]
    expected: dict[str, Any]

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]


BUILDERS: dict[str, Builder] = {}


def register(name: str, packages: str, write: Callable[[Path], Written], **expected: Any) -> None:
    """Add a case. `packages`: import names, separated by spaces; the first wrote the file."""
    assert name not in BUILDERS, name
    BUILDERS[name] = Builder(name, tuple(packages.split()), write, expected)


def case(packages: str, **expected: Any) -> Callable[[Callable[[Path], Written]], Callable[[Path], Written]]:
    """`register` as a decorator; the function's name is the case's."""

    def add(write: Callable[[Path], Written]) -> Callable[[Path], Written]:
        register(write.__name__, packages, write, **expected)
        return write

    return add


def build(builder: Builder, folder: Path) -> Case:
    """Write the case into a folder, repeatably."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    written = builder.write(folder)
    package = builder.packages[0]
    found = Case(builder.name, written.file, f"{package} {_version(package)}", **builder.expected)
    if written.encode is not None and found.expect != "reject":
        images = crops(written.size, written.channels)
        with torch.no_grad():
            features = pooled(written.encode(images))
        assert torch.isfinite(features).all() and features.std(0).min() >= 0 and features.std() > 0
        np.savez(folder / "expected.npz", images=images.numpy(), features=features.float().numpy())
    (folder / "case.json").write_text(json.dumps(found.to_dict(), indent=1) + "\n")
    return found


def _version(package: str) -> str:
    names = importlib.metadata.packages_distributions().get(package, [package])
    return importlib.metadata.version(names[0])


def pooled(output: Tensor) -> Tensor:
    """Maps (B, D, h, w) -> their averages (B, D); features (B, D) stay."""
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output


@functools.cache
def _photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def crops(size: int, channels: int = 3) -> Tensor:
    """Four square crops of scikit-learn's photos: (4, channels, size, size) float32, normalized."""
    generator = np.random.default_rng(0)
    images = []
    for index in range(4):
        photo = _photos()[index % 2]
        side = min(2 * size + 40 * index, 400)
        top, left = generator.integers(0, 427 - side), generator.integers(0, 640 - side)
        patch = torch.from_numpy(photo[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None] / 255
        patch = nn.functional.interpolate(patch, size=(size, size), mode="bilinear", antialias=True)
        images.append((patch - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    batch = torch.cat(images)
    if channels == 3:
        return batch
    gray = batch.mean(dim=1, keepdim=True)
    return torch.cat([gray.roll(index, dims=3) for index in range(channels)], dim=1)


def randomize(network: Network) -> Network:
    """Random statistics, weights and biases of batch normalization, in place, and eval mode: else mistakes do not show."""
    with torch.no_grad():
        for module in network.modules():
            if getattr(module, "running_var", None) is None:
                continue
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            if module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return network.eval()
