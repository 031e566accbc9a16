"""A folder that timm loads with `local-dir:`, and from the Hugging Face Hub with `hf-hub:`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from simsiam_eval.encoders.export.card import model_card
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.writer import Conversion, ResNetWriter
from simsiam_eval.images.preprocess import Preprocessing


class TimmFolder(ResNetWriter):
    """config.json as timm's save_for_hf writes it, model.safetensors and README.md."""

    LIBRARY, PACKAGE = "timm.create_model", "timm"
    CARRIES = frozenset({"channels"})

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        state = {key: value.contiguous() for key, value in self.encoder.trunk.state_dict().items()}
        safetensors.torch.save_file(state, path / "model.safetensors", dict(metadata) | {"format": "pt"})
        (path / "config.json").write_text(json.dumps(hub_config(self.conversion), indent=2) + "\n")
        card = model_card(self.conversion, "timm", f"{self.encoder.arch} for timm", self._code("FOLDER"), metadata)
        (path / "README.md").write_text(card, encoding="utf-8")

    def weights(self, path: Path) -> dict[str, Tensor]:
        return safetensors.torch.load_file(path / "model.safetensors")

    def features(self, path: Path, samples: Samples) -> Tensor:
        import timm

        model = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0)
        with torch.inference_mode():
            features: Tensor = model.eval()(samples.normalized)
            return features

    def _code(self, folder: str) -> list[str]:
        name = json.dumps(f"local-dir:{folder}")
        return [
            "import timm",
            f"model = timm.create_model({name}, pretrained=True, num_classes=0)  # num_classes=10: with a new classifier",
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        ]

    def notes(self) -> list[str]:
        return ["Load it with", *self._code(str(self.conversion.out))]


def hub_config(conversion: Conversion) -> dict[str, Any]:
    """The content of config.json."""
    chosen, encoder = conversion.preprocessing, conversion.encoder
    channels = encoder.variant.channels
    return {
        "architecture": encoder.arch,
        "num_classes": 0,
        "num_features": encoder.width,
        "global_pool": "avg",
        "model_args": {"num_classes": 0, "in_chans": channels, "global_pool": "avg"},
        "pretrained_cfg": {
            "tag": "simsiam_eval",
            "custom_load": False,
            "input_size": [channels, chosen.crop, chosen.crop],
            "fixed_input_size": False,
            "interpolation": chosen.interpolation,
            "crop_pct": crop_share(chosen),
            "crop_mode": "squash" if chosen.squash else "center",
            "mean": list(chosen.mean),
            "std": list(chosen.std),
            "num_classes": 0,
            "pool_size": [math.ceil(chosen.crop / 32)] * 2,
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }


def crop_share(preprocessing: Preprocessing) -> float:
    """timm's `crop_pct`, from which timm computes the short side after the resize as floor(crop / crop_pct).

    >>> crop_share(Preprocessing()), crop_share(Preprocessing(resize=224, crop=224, squash=True))
    (0.875, 1.0)
    """
    if preprocessing.squash:
        return 1.0
    share = preprocessing.crop / preprocessing.resize
    return share if math.floor(preprocessing.crop / share) == preprocessing.resize else math.nextafter(share, 0)
