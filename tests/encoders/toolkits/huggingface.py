"""Folders and files of transformers, accelerate, safetensors and huggingface_hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.encoders.cases import Written, case, randomize, register
from tests.encoders.toolkits.trunks import maps, network

BASIC = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
BOTTLENECK = {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"}
R18 = {"family": "transformers", "arch": "resnet18", "stem": "imagenet"}
R50 = {"family": "transformers", "arch": "resnet50", "stem": "imagenet"}


def _model(options: dict[str, Any], classifier: bool) -> tuple[nn.Module, nn.Module]:
    """transformers' model with or without classifier, and the ResNetModel in it."""
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

    config = ResNetConfig(**options)
    model = randomize((ResNetForImageClassification if classifier else ResNetModel)(config))
    return model, model.resnet if classifier else model


def _folder(options: dict[str, Any], classifier: bool = True) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        model, trunk = _model(options, classifier)
        model.save_pretrained(folder / "model")
        return Written("model", lambda images: trunk(images).last_hidden_state)

    return write


register("transformers_resnet18", "transformers", _folder(BASIC), **R18)
register("transformers_resnet18_trunk", "transformers", _folder(BASIC, classifier=False), **R18)
register("transformers_resnet50", "transformers", _folder(BOTTLENECK), **R50, note="as microsoft/resnet-50")
register(
    "transformers_resnet50_downsample_in_bottleneck",
    "transformers",
    _folder(BOTTLENECK | {"downsample_in_bottleneck": True}),
    **R50,
    variant={"stride_in_1x1": True},
    note="config.json says that the stride is in the first convolution",
)
register(
    "transformers_gelu",
    "transformers",
    _folder(BASIC | {"hidden_act": "gelu"}),
    family="huggingface",
    arch="hf:ResNetModel",
    note="computed by transformers",
)
register(
    "transformers_channels1",
    "transformers",
    lambda folder: _one_channel(folder),
    family="transformers",
    arch="resnet18",
    variant={"channels": 1},
)


def _one_channel(folder: Path) -> Written:
    written = _folder(BASIC | {"num_channels": 1})(folder)
    return Written(written.file, written.encode, channels=1)


@case("transformers", **R18, note="model.safetensors alone")
def transformers_safetensors(folder: Path) -> Written:
    written = _folder(BASIC)(folder)
    return Written("model/model.safetensors", written.encode)


@case("transformers", **R50, note="pytorch_model.bin of older versions")
def transformers_bin(folder: Path) -> Written:
    model, trunk = _model(BOTTLENECK, classifier=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return Written("pytorch_model.bin", lambda images: trunk(images).last_hidden_state)


@case("transformers timm", arch="resnet18", stem="imagenet", note="TimmWrapperModel.save_pretrained")
def transformers_timm_wrapper(folder: Path) -> Written:
    from transformers import TimmWrapperConfig, TimmWrapperModel

    model = randomize(TimmWrapperModel(TimmWrapperConfig(architecture="resnet18", num_labels=0)))
    model.save_pretrained(folder / "model")
    return Written("model", model.timm_model.forward_features)


@case("transformers timm", family="timm", arch="timm:resnetaa50", note="config.json says the architecture")
def transformers_timm_wrapper_resnetaa50(folder: Path) -> Written:
    from transformers import TimmWrapperConfig, TimmWrapperModel

    model = randomize(TimmWrapperModel(TimmWrapperConfig(architecture="resnetaa50", num_labels=0)))
    model.save_pretrained(folder / "model")
    return Written("model", model.timm_model.forward_features)


@case("transformers", expect="reject", reason="(?i)transformer")
def transformers_vit(folder: Path) -> Written:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    ViTModel(config).save_pretrained(folder / "model")
    return Written("model")


@case("safetensors", family="torchvision", arch="resnet18", stem="imagenet")
def safetensors_resnet18(folder: Path) -> Written:
    from safetensors.torch import save_model

    model = network()
    save_model(model, str(folder / "model.safetensors"))
    return Written("model.safetensors", maps(model))


def _shards(folder: Path) -> nn.Module:
    from huggingface_hub import save_torch_state_dict

    model = network()
    (folder / "shards").mkdir()
    save_torch_state_dict(model.state_dict(), folder / "shards", max_shard_size="15MB")
    return model


@case("huggingface_hub safetensors", arch="resnet18", stem="imagenet", note="shards and their index, as a folder")
def safetensors_sharded_folder(folder: Path) -> Written:
    return Written("shards", maps(_shards(folder)))


@case("huggingface_hub safetensors", arch="resnet18", stem="imagenet", note="the index file")
def safetensors_sharded_index(folder: Path) -> Written:
    return Written("shards/model.safetensors.index.json", maps(_shards(folder)))


@case("huggingface_hub safetensors", expect="reject", reason="(?i)shard", note="one of several shards")
def safetensors_one_shard(folder: Path) -> Written:
    _shards(folder)
    shard = next((folder / "shards").glob("model-00001-of-*"))
    shard.rename(folder / shard.name)
    return Written(shard.name)


@case(
    "huggingface_hub safetensors",
    expect="reject",
    reason="(?i)missing|does not exist|not there",
    note="a shard is gone",
)
def safetensors_missing_shard(folder: Path) -> Written:
    _shards(folder)
    next((folder / "shards").glob("model-00002-of-*")).unlink()
    return Written("shards")


@case("accelerate", arch="resnet18", stem="imagenet", note="Accelerator.save_state")
def accelerate_save_state(folder: Path) -> Written:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    prepared, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.save_state(str(folder / "checkpoint_0"))
    return Written("checkpoint_0", maps(prepared))


@case("accelerate", arch="resnet18", stem="imagenet", note="save_state(safe_serialization=False): pytorch_model.bin")
def accelerate_save_state_bin(folder: Path) -> Written:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(network())
    accelerator.save_state(str(folder / "checkpoint_0"), safe_serialization=False)
    return Written("checkpoint_0", maps(model))
