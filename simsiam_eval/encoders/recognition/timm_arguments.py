"""The arguments with which timm built a network, in its hub folder or a checkpoint of its train.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.timm_library import plain_name
from simsiam_eval.errors import DataError

# Arguments that change only the first or the last layer, or do not change the network.
_NOT_OF_TRUNK = {
    "cache_dir", "checkpoint_path", "in_chans", "num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
}  # fmt: skip
# Arguments that change the features only in training, or show in the weights.
_HARMLESS = {"drop_rate", "drop_path_rate", "drop_block_rate", "img_size", "zero_init_last"}
_POOLINGS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax")
_AVERAGES = ("avg", "fast", "fastavg")  # the same pooling
_PLAIN = (bool, int, float, str, list, tuple, dict)
# Arguments of timm's train.py by which it is known, in files that lack the entries of its CheckpointSaver.
_SCRIPT_MARKS = {"crop_pct", "img_size", "gp", "model_kwargs"}


def train_arguments(file: CheckpointFile) -> Mapping[str, Any]:
    """The arguments of timm's train.py; {} in checkpoints of other scripts."""
    script = attributes_of(file.content.get("args"))
    is_timms = file.content.keys() & {"version", "metric"} or script.keys() & _SCRIPT_MARKS
    return script if isinstance(script.get("model"), str) and is_timms else {}


def timm_architecture(file: CheckpointFile) -> str | None:
    """The architecture that a hub folder of timm or a checkpoint of its train.py names, without tag; None in others."""
    name = file.configs.get("config.json", {}).get("architecture") or train_arguments(file).get("model")
    return plain_name(name) if isinstance(name, str) else None


def timm_arguments(file: CheckpointFile) -> dict[str, Any]:
    """Arguments of `timm.create_model`, without those of the first and the last layer.

    Raises:
        DataError: one is an object of a class, such as a layer.
    """
    config, script = file.config, train_arguments(file)
    found = dict(attributes_of(config.get("model_args"))) if "architecture" in config else {}
    if script.get("gp") in _POOLINGS:
        found["global_pool"] = script["gp"]
    found |= attributes_of(script.get("model_kwargs"))
    if found.get("global_pool") in ("", None):  # maps that are not pooled, which we pool as the network does
        found.pop("global_pool", None)
    found = {name: value for name, value in found.items() if name not in _NOT_OF_TRUNK}
    for name, value in found.items():
        if value is not None and not isinstance(value, _PLAIN):
            raise DataError(
                f"{file.path} says that its network was built with {name}, whose value is an object that cannot be read; "
                "expected text, a number or a list."
            )
    return found


def changes_of_features(arguments: dict[str, Any]) -> str:
    """Those of `timm_arguments` that change the features of a ResNet; "" if there are none."""
    return ", ".join(
        f"{name}={value}"
        for name, value in arguments.items()
        if name not in _HARMLESS
        and not (name == "global_pool" and value in _AVERAGES)
        and not (name == "output_stride" and value == 32)
    )
