"""A checkpoint for lightly, with the keys of the SimSiam model in its documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.checkpoint_file import read_checkpoint
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.loading_code import run_code, stem_code
from simsiam_eval.encoders.export.state_dicts import STEM_LINES
from simsiam_eval.encoders.export.writer import ResNetWriter

# The children of torchvision's ResNet by their index in nn.Sequential; relu, maxpool and avgpool have no weights.
_INDEX = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def lightly_key(key: str) -> str:
    """torchvision's key -> lightly's.

    >>> lightly_key("layer1.0.conv1.weight")
    'backbone.4.0.conv1.weight'
    """
    child, _, rest = key.partition(".")
    return f"backbone.{_INDEX[child]}.{rest}"


class Lightly(ResNetWriter):
    """`{"state_dict": ...}`, as PyTorch Lightning's checkpoints have it, without projection and prediction head."""

    LIBRARY = PACKAGE = "lightly"
    CARRIES = STEM_LINES

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        state = {lightly_key(key): value for key, value in self.encoder.trunk.state_dict().items()}
        torch.save({"state_dict": state, METADATA_KEY: self.checkpoint_metadata(metadata)}, path)

    def weights(self, path: Path) -> dict[str, Tensor]:
        state = read_checkpoint(path)["state_dict"]
        return {key: state[lightly_key(key)] for key in self.encoder.trunk.state_dict()}

    def features(self, path: Path, samples: Samples) -> Tensor:
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        class SimSiam(torch.nn.Module):  # as in lightly's documentation
            def __init__(self, backbone: torch.nn.Module, width: int) -> None:
                super().__init__()
                self.backbone = backbone
                self.projection_head = SimSiamProjectionHead(width, 512, 128)
                self.prediction_head = SimSiamPredictionHead(128, 64, 128)

        model = SimSiam(run_code(self._backbone_code())["backbone"], self.encoder.width)
        loaded = model.load_state_dict(read_checkpoint(path)["state_dict"], strict=False)
        others = [key for key in loaded.missing_keys if not key.startswith(("projection_head.", "prediction_head."))]
        assert not others and not loaded.unexpected_keys, loaded
        with torch.inference_mode():
            return model.backbone.eval()(samples.normalized).flatten(1)

    def _backbone_code(self) -> list[str]:
        return [
            "import torch, torchvision",
            f"resnet = torchvision.models.{self.encoder.arch}()",
            *stem_code(self.encoder.stem, self.encoder.variant, "resnet"),
            "backbone = torch.nn.Sequential(*list(resnet.children())[:-1])",
        ]

    def notes(self) -> list[str]:
        file = json.dumps(str(self.conversion.out))
        return [
            "Without projection and prediction head. Load it with",
            *self._backbone_code(),
            "model = SimSiam(backbone)  # your module, whose encoder is self.backbone",
            f'model.load_state_dict(torch.load({file}, weights_only=True)["state_dict"], strict=False)',
        ]
