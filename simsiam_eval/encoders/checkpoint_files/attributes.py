"""The attributes of configuration objects in a checkpoint, read from their stubs."""

from collections.abc import Mapping
from typing import Any

from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignObject


def attributes_of(value: Any) -> Mapping[str, Any]:
    """The attributes of a dict, argparse.Namespace, SimpleNamespace, OmegaConf, yacs or mmengine config, or dataclass.

    Values are plain where they can be; a config in a config is a stub, which `attributes_of` reads in turn.
    {} for anything else.

    >>> attributes_of(ForeignObject("argparse.Namespace", state={"arch": "resnet50"}))
    {'arch': 'resnet50'}
    """
    if isinstance(value, Mapping):
        found: Mapping[Any, Any] = value
    elif not isinstance(value, ForeignObject):
        return {}
    else:
        state = value.state
        if isinstance(state, tuple) and len(state) == 2:  # the __dict__ and the __slots__
            state = {**dict(state[0] or {}), **dict(state[1] or {})} if _are_mappings(state) else None
        state = state if isinstance(state, Mapping) else {}
        if "omegaconf" in value.class_name:
            content = state.get("_content")
            found = content if isinstance(content, Mapping) else {}
        else:
            inner = state.get("_cfg_dict")  # mmcv's Config
            found = attributes_of(inner) if isinstance(inner, ForeignObject | Mapping) else state
            found = {**(value.items if isinstance(value.items, Mapping) else {}), **found}
    return {name: _plain(entry) for name, entry in found.items() if isinstance(name, str)}


def _are_mappings(states: tuple[Any, ...]) -> bool:
    return all(state is None or isinstance(state, Mapping) for state in states)


def _plain(value: Any) -> Any:
    """The value of an OmegaConf node or list; anything else as it is."""
    if not isinstance(value, ForeignObject) or "omegaconf" not in value.class_name:
        return value
    state = value.state if isinstance(value.state, Mapping) else {}
    if "_val" in state:
        return state["_val"]
    content = state.get("_content")
    return [_plain(entry) for entry in content] if isinstance(content, list) else value
