"""A folder that transformers loads with AutoModel and AutoModelForImageClassification: its ResNet."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from simsiam_eval.encoders.architectures import ARCHITECTURES, BOTTLENECK, feature_width
from simsiam_eval.encoders.export.card import model_card
from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.writer import Conversion, ResNetWriter
from simsiam_eval.errors import UsageError
from simsiam_eval.images.preprocess import Preprocessing

# torchvision's key -> that of transformers' ResNetModel. Convolutions and batch normalizations count from 1 and from 0.
_RULES: tuple[tuple[str, str], ...] = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", "encoder.stages.{0}.layers.{1}.shortcut.convolution."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", "encoder.stages.{0}.layers.{1}.shortcut.normalization."),
    (r"^layer(\d)\.(\d+)\.conv(\d)\.", "encoder.stages.{0}.layers.{1}.layer.{2}.convolution."),
    (r"^layer(\d)\.(\d+)\.bn(\d)\.", "encoder.stages.{0}.layers.{1}.layer.{2}.normalization."),
)


def transformers_key(key: str) -> str:
    """torchvision's key -> that of transformers' ResNetModel.

    >>> transformers_key("layer1.0.bn3.weight")
    'encoder.stages.0.layers.0.layer.2.normalization.weight'
    """
    for pattern, name in _RULES:
        if match := re.match(pattern, key):
            numbers = [int(number) for number in match.groups()]
            # The stage and the number of the convolution count from 0, blocks already do.
            numbers = [number - (position != 1) for position, number in enumerate(numbers)]
            return name.format(*numbers) + key[match.end() :]
    raise ValueError(f"not a key of torchvision's ResNet: {key}")


class TransformersFolder(ResNetWriter):
    """config.json, preprocessor_config.json, model.safetensors and README.md."""

    LIBRARY, PACKAGE = "transformers' ResNet", "transformers"
    CARRIES = frozenset({"channels", "stride_in_1x1"})

    def check(self) -> None:
        super().check()
        _, _, groups, width = ARCHITECTURES[self.encoder.arch]
        if (groups, width) != (1, 64):
            raise UsageError(
                f"transformers' ResNet has neither groups nor wider blocks, so it cannot rebuild {self.encoder.arch}; "
                "use --to timm-folder, which transformers also loads where timm is installed."
            )

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        state = {transformers_key(key): value.contiguous() for key, value in self.encoder.trunk.state_dict().items()}
        safetensors.torch.save_file(state, path / "model.safetensors", dict(metadata) | {"format": "pt"})
        for name, content in (
            ("config.json", transformers_config(self.conversion)),
            ("preprocessor_config.json", image_processor_config(self.conversion.preprocessing)),
        ):
            (path / name).write_text(json.dumps(content, indent=2) + "\n")
        title = f"{self.encoder.arch} for transformers"
        card = model_card(self.conversion, "transformers", title, self._code("FOLDER"), metadata)
        (path / "README.md").write_text(card, encoding="utf-8")

    def weights(self, path: Path) -> dict[str, Tensor]:
        content = safetensors.torch.load_file(path / "model.safetensors")
        return {key: content[transformers_key(key)] for key in self.encoder.trunk.state_dict()}

    def features(self, path: Path, samples: Samples) -> Tensor:
        from transformers import AutoModel
        from transformers.utils import logging

        if logging.is_progress_bar_enabled():
            logging.disable_progress_bar()  # of a second, in the middle of the command's own output
        model = AutoModel.from_pretrained(path, local_files_only=True)
        with torch.inference_mode():
            features: Tensor = model.eval()(samples.normalized).pooler_output.flatten(1)
            return features

    def _code(self, folder: str) -> list[str]:
        name = json.dumps(folder)
        return [
            "from transformers import AutoImageProcessor, AutoModel",
            f"processor, model = AutoImageProcessor.from_pretrained({name}), AutoModel.from_pretrained({name})",
            'features = model(**processor(image, return_tensors="pt")).pooler_output.flatten(1)',
        ]

    def notes(self) -> list[str]:
        return ["Load it with", *self._code(str(self.conversion.out))]


def transformers_config(conversion: Conversion) -> dict[str, Any]:
    """The content of config.json: a ResNetConfig."""
    encoder = conversion.encoder
    block, blocks, _, _ = ARCHITECTURES[encoder.arch]
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": encoder.variant.channels,
        "embedding_size": 64,
        "hidden_sizes": [feature_width(encoder.arch, f"layer{stage}") for stage in (1, 2, 3, 4)],
        "depths": list(blocks),
        "layer_type": "bottleneck" if block == BOTTLENECK else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": encoder.variant.stride_in_1x1,
        "torch_dtype": "float32",
    }


def image_processor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    sides = {"height": preprocessing.crop, "width": preprocessing.crop}
    sizes: dict[str, Any] = (
        {"image_processor_type": "ViTImageProcessor", "size": sides}
        if preprocessing.squash
        else {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": preprocessing.resize},
            "do_center_crop": True,
            "crop_size": sides,
            "do_convert_rgb": preprocessing.channels == 3,
        }
    )
    return sizes | {
        "do_resize": True,
        "resample": {"bilinear": 2, "bicubic": 3}[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
