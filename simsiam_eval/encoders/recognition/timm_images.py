"""The preprocessing of timm: of hub folders, of checkpoints of its train.py, and of networks by their name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.recognition.stated_preprocessing import StatedPreprocessing, known_interpolation
from simsiam_eval.encoders.recognition.timm_arguments import train_arguments
from simsiam_eval.encoders.timm_library import name_with_tag, timm_config
from simsiam_eval.errors import UsageError
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

# What timm takes where a `pretrained_cfg` does not say it (timm.models.PretrainedCfg).
_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
}


def timm_images(
    file: CheckpointFile,
    channels: int,
    network: Mapping[str, Any] | None = None,
    named: Mapping[str, Any] | None = None,
    input_size: Sequence[int] | None = None,
) -> StatedPreprocessing:
    """timm's preprocessing of the images of a network.

    As in timm, a hub folder states it completely, and what train.py was not given is what timm has for the network.

    Args:
        channels: of the images.
        network: `pretrained_cfg` of a network that was pickled whole.
        named: timm's `pretrained_cfg` of the network that the user names.
        input_size: (channels, height, width) of a network that takes no other size.
    """
    script = train_arguments(file)
    stated = _script_values(script, channels)
    base, source, assumptions = _hub_values(file), "config.json", list[str]()
    if not base and network:
        base, source = network, "the pickled network"
    if not base and named is not None:
        base, source = named, "timm's configuration of the network"
    elif not base and script:
        base, assumptions = _library_values(script["model"])
        source = "timm's configuration of the network"
    if not base and not script:
        return StatedPreprocessing()
    values = {**base, **stated, **({} if input_size is None else {"input_size": input_size})}
    preprocessing, differences = timm_preprocessing(values, channels)
    return StatedPreprocessing(
        preprocessing, "the arguments of timm's train.py" if stated else source, (*assumptions, *differences)
    )


def timm_preprocessing(values: Mapping[str, Any], channels: int = 3) -> tuple[Preprocessing, tuple[str, ...]]:
    """timm's evaluation transform, and how ours differs from it.

    Args:
        values: timm's `pretrained_cfg`.
        channels: of the images.
    """
    values = _DEFAULTS | {name: value for name, value in values.items() if name in _DEFAULTS and value}
    *_, height, side = values["input_size"]
    fraction, mode = float(values["crop_pct"]), values["crop_mode"]
    interpolation, assumptions = known_interpolation(str(values["interpolation"]))
    if mode == "border" or (mode == "squash" and fraction != 1):
        assumptions += (f"Images are cropped at the center; timm's crop mode is {mode}.",)
    if height != side:
        assumptions += (f"Images are cropped to {side} x {side} pixels; timm's are {height} x {side}.",)
    return (
        Preprocessing(
            resize=math.floor(side / fraction),
            crop=side,
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            squash=mode == "squash" and fraction == 1,
            interpolation=interpolation,
            channels=channels,
        ),
        assumptions,
    )


def _hub_values(file: CheckpointFile) -> Mapping[str, Any]:
    """The `pretrained_cfg` of a hub folder; {} if there is none. Older folders have its values beside the architecture."""
    config = file.configs.get("config.json", {})
    values = config.get("pretrained_cfg", config)
    return values if "architecture" in config and isinstance(values, Mapping) and values.keys() & _DEFAULTS else {}


def _library_values(model: str) -> tuple[Mapping[str, Any], list[str]]:
    """timm's `pretrained_cfg` of the network that train.py was given, and an assumption where timm cannot say it."""
    name = name_with_tag(model)
    try:
        return timm_config(name).to_dict(), []
    except UsageError as error:
        return {}, [
            f"Assumed timm's usual preprocessing, since that of {name} is not known ({str(error).rstrip('.')})."
        ]


def _script_values(script: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """What train.py was given, as timm's `resolve_data_config` reads it."""
    values = {name: script[name] for name in ("interpolation", "crop_pct", "crop_mode") if script.get(name)}
    size, side = script.get("input_size"), script.get("img_size")
    if isinstance(size, list | tuple) and len(size) == 3:
        values["input_size"] = size
    elif isinstance(side, int):
        values["input_size"] = (channels, side, side)
    for name in ("mean", "std"):
        numbers = script.get(name)
        if isinstance(numbers, list | tuple) and numbers:
            values[name] = tuple(numbers) * (channels if len(numbers) == 1 else 1)
    return values
