"""The settings in a checkpoint and in the files beside it: those of the training script, whatever wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC
from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.checkpoint_files.python_config import settings_in_python
from simsiam_eval.encoders.recognition.networks import Network

Settings = Sequence[tuple[str, Any]]  # (where it stands, value)

# Entries of a file that hold the settings of its training script.
_ENTRIES = ("args", "opt", "hyper_parameters", "hparams", "cfg", "config", "meta", "pretrained_cfg", "default_cfg")
_TEXTS = ("cfg", "config")  # names under which OpenMMLab keeps its config, a Python file
_DEEPEST = 6  # levels of nested settings
# Families whose settings are in a YAML file. Beside other weights such a file belongs to another network.
_YAML_FAMILIES = ("detectron2", "maskrcnn-benchmark")


def settings_of(file: CheckpointFile, network: Network | None) -> tuple[Settings, list[str]]:
    """Everything in and beside a checkpoint that may be settings of one of its networks, and what was left out.

    Args:
        network: None for one of another library.

    Returns:
        The settings; and a sentence on each file that was left out because it belongs to another network.
    """
    found: list[tuple[str, Any]] = []
    left_out: list[str] = []
    for name, config in file.configs.items():
        if name.endswith((".yaml", ".yml")):
            depth = _depth(config)
            if network is None or network.family.name not in _YAML_FAMILIES:
                continue
            if depth not in (None, depth_of(network.arch)):
                left_out.append(f"{name} beside the weights describes a ResNet-{depth}, so it is not used.")
                continue
        found.append((name, config))
    found += [(name, {name: file.content[name]}) for name in ("arch", "__author__") if _is_text(file.content.get(name))]
    found += [(name, file.content[name]) for name in _ENTRIES if name in file.content]
    texts = [
        (f"{source}.{name}", settings_in_python(mapping[name]))
        for source, value in found
        for mapping in mappings_in(value)
        for name in _TEXTS
        if _is_text(mapping.get(name))
    ]
    return [*found, *texts], left_out


def mappings_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a value, with string keys, at any depth; each once."""
    yield from _mappings(value, _DEEPEST, {})


def named_values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """(name, value) of every setting, at any depth."""
    for _, value in settings:
        for mapping in mappings_in(value):
            yield from mapping.items()


def _mappings(value: Any, depth: int, seen: dict[int, Any]) -> Iterator[Mapping[str, Any]]:
    if id(value) in seen:  # YAML and pickle can refer to a value from many places
        return
    attributes = attributes_of(value)
    entries: Sequence[Any] = list(attributes.values()) or (value if isinstance(value, list | tuple) else [])
    if entries:
        seen[id(value)] = value  # kept, so that no other gets its id
    if attributes:
        yield attributes
    for entry in entries if depth else []:
        yield from _mappings(entry, depth - 1, seen)


def _depth(config: Mapping[str, Any]) -> Any:
    """MODEL.RESNETS.DEPTH."""
    model = config.get("MODEL")
    resnets = model.get("RESNETS") if isinstance(model, Mapping) else None
    return resnets.get("DEPTH") if isinstance(resnets, Mapping) else None


def depth_of(arch: str) -> int:
    """Number of layers with weights, by which ResNets are named."""
    block, blocks, _, _ = ARCHITECTURES[arch]
    return (2 if block == BASIC else 3) * sum(blocks) + 2


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
