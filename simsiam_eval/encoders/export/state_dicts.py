"""State dicts for the reference's scripts, torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.checkpoint_file import read_checkpoint
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY, write_checkpoint
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.loading_code import run_code, stem_code, timm_code
from simsiam_eval.encoders.export.writer import ResNetWriter

# What a few lines of code give a torchvision or timm ResNet, as CARRIES.
STEM_LINES = frozenset({"cifar", "channels", "stem_stride", "stem_padding", "stem_pool"})


class StateDict(ResNetWriter):
    """A state dict under torchvision's keys, without `fc`."""

    LIBRARY = PACKAGE = "torchvision"
    CARRIES = frozenset({"cifar"})

    def state_dict(self) -> dict[str, Tensor]:
        """torchvision's key -> weight."""
        return {key: value.contiguous() for key, value in self.encoder.trunk.state_dict().items()}

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        if self.as_safetensors(path):
            safetensors.torch.save_file(self.state_dict(), path, dict(metadata) | {"format": "pt"})
        else:
            torch.save(self.state_dict(), path)

    def as_safetensors(self, path: Path) -> bool:
        """Whether to write a safetensors file; otherwise torch.save's format."""
        return False

    def weights(self, path: Path) -> dict[str, Tensor]:
        content = read_checkpoint(path)
        return {key: content[key] for key in self.encoder.trunk.state_dict()}

    def features(self, path: Path, samples: Samples) -> Tensor:
        from torchvision.models import get_model

        model = get_model(self.encoder.arch, weights=None)
        model.fc = torch.nn.Identity()
        run_code(stem_code(self.encoder.stem), torch=torch, model=model)
        model.load_state_dict(self.weights(path))
        with torch.inference_mode():
            return model.eval()(samples.normalized)

    def notes(self) -> list[str]:
        stem = (
            ""
            if self.encoder.stem == "imagenet"
            else ", its conv1 replaced by a 3x3 convolution and its maxpool by nn.Identity()"
        )
        return [
            f"Load it into torchvision.models.{self.encoder.arch}(){stem}, with strict=False since fc is not included."
        ]


class Torchvision(StateDict):
    """torch.save's format."""


class Safetensors(StateDict):
    """The safetensors format, with metadata."""

    def as_safetensors(self, path: Path) -> bool:
        return True


class Reference(StateDict):
    """A checkpoint as facebookresearch/simsiam's scripts read it."""

    LIBRARY = "facebookresearch/simsiam"

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        report = self.conversion.report
        kept = {name: value for name, value in (report.metadata or {}).items() if name in ("stem", "preprocessing")}
        write_checkpoint(
            path,
            epoch=report.epoch or 0,
            arch=self.encoder.arch,
            state_dict={f"module.encoder.{key}": value for key, value in self.encoder.trunk.state_dict().items()},
            optimizer={"state": {}, "param_groups": []},
            metadata=kept | {"converted_from": report.family, "conversion": dict(metadata)},
        )

    def weights(self, path: Path) -> dict[str, Tensor]:
        content = read_checkpoint(path)["state_dict"]
        return {key: content[f"module.encoder.{key}"] for key in self.encoder.trunk.state_dict()}

    def notes(self) -> list[str]:
        notes = ["Without projector, predictor and optimizer: for evaluation, not for further training."]
        if self.encoder.stem == "cifar":
            notes.append("The reference's scripts build ResNets with the 7x7 stem and cannot load this encoder.")
        return notes


class Timm(StateDict):
    """A file for timm, whose ResNets have torchvision's key names and which chooses the format by the extension."""

    LIBRARY = PACKAGE = "timm"
    CARRIES = STEM_LINES

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        if self.as_safetensors(path):
            super().save(path, metadata)
        else:  # timm reads the state dict from the first entry
            torch.save({"state_dict": self.state_dict(), METADATA_KEY: self.checkpoint_metadata(metadata)}, path)

    def weights(self, path: Path) -> dict[str, Tensor]:
        content = read_checkpoint(path)
        return dict(content.get("state_dict", content))

    def as_safetensors(self, path: Path) -> bool:
        return path.suffix == ".safetensors"

    def features(self, path: Path, samples: Samples) -> Tensor:
        model = run_code(self._code(path))["model"]
        with torch.inference_mode():
            return model.eval()(samples.normalized)

    def notes(self) -> list[str]:
        return ["Load it with", *self._code(self.conversion.out)]

    def _code(self, path: Path) -> list[str]:
        return timm_code(self.encoder.arch, self.encoder.stem, path, self.encoder.variant)
