"""Read a YAML file as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_LARGEST = 2**20  # bytes


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: dicts, lists, numbers, strings; None if there is no such file, or it is very large.

    What has a tag of a program, such as !!python/tuple, is read as if it had none; nothing is imported or called.

    Raises:
        ValueError: it is not YAML.
        OSError: it cannot be read.
    """
    import yaml

    def untagged(loader: Any, _: str, node: Any) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        return loader.construct_scalar(node)

    if not path.is_file() or path.stat().st_size > _LARGEST:
        return None
    safe_loader: Any = type("PlainLoader", (yaml.SafeLoader,), {})
    safe_loader.add_multi_constructor("", untagged)  # for tags that SafeLoader does not know
    try:
        return yaml.load(path.read_bytes(), safe_loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
