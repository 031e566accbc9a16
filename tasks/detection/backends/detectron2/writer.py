"""`convert --to detectron2`: the encoder under the names of a detectron2 detector, FILE.pth, and its config, FILE.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.checkpoint_file import read_checkpoint
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.writer import Conversion, ResNetWriter, quiet
from tasks.detection.backends.detectron2.backend import Detectron2Backend, missing
from tasks.detection.backends.detectron2.comparison import TOLERANCE, check_difference, compared_stages
from tasks.detection.backends.detectron2.config import config_values, yaml_text
from tasks.detection.backends.detectron2.weights import CARRIES, detectron2_keys, detectron2_weights
from tasks.detection.presets import preset_detector, preset_schedule


class Detectron2Writer(ResNetWriter):
    """The names and the config of the detector of a preset of `detect`."""

    LIBRARY = PACKAGE = "detectron2"
    CARRIES = CARRIES
    TOLERANCE = TOLERANCE

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        chosen = conversion.preprocessing
        self.spec = replace(preset_detector(conversion.preset), mean=chosen.mean, std=chosen.std)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        content = {
            "model": detectron2_weights(self.encoder, self.spec.heads),
            "__author__": "simsiam-eval",
            "matching_heuristics": False,
            METADATA_KEY: self.checkpoint_metadata(metadata),
        }
        torch.save(content, path)
        values = config_values(self.encoder.arch, self.spec, preset_schedule(self.conversion.preset), "SyncBN") | {
            "MODEL.RESNETS.STRIDE_IN_1X1": self.encoder.variant.stride_in_1x1,
            "MODEL.WEIGHTS": str(self.conversion.out.resolve()),
        }
        _config(path).write_text(yaml_text(values), encoding="utf-8")

    def weights(self, path: Path) -> dict[str, Tensor]:
        written = read_checkpoint(path)["model"]
        names = detectron2_keys(self.encoder.trunk.state_dict(), self.spec.heads)
        return {key: written[name] for key, name in names.items()}

    def missing(self) -> str | None:
        return missing()

    def consumer(self) -> str:
        return f"detectron2 {Detectron2Backend().versions()['detectron2']}"

    def features(self, path: Path, samples: Samples) -> Tensor:
        from tasks.detection.backends.detectron2.model import model_of_files

        with quiet():
            model = model_of_files(_config(path), path)
        largest, features = compared_stages(self.encoder, model, self.spec.heads, samples.normalized, samples.pixels)
        check_difference(largest)
        return features

    def notes(self) -> list[str]:
        preset, out = self.conversion.preset, self.conversion.out
        return [
            f"Wrote {out} and {_config(out)}.",
            f"The config follows the preset {preset}, with {len(self.spec.classes)} classes; set your DATASETS in it.",
        ]


def _config(path: Path) -> Path:
    return path.with_suffix(".yaml")
