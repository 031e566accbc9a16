"""Networks of timm that were pickled whole, and what their stubs say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.recognition.module_layers import attributes
from simsiam_eval.encoders.recognition.search import content_at

_DEEPEST = 4  # levels of nested containers


@dataclass(frozen=True)
class TimmModule:
    """A network of timm in a pickled module.

    Attributes:
        module: that contains it.
        path: of the network in it; "" or a path that ends with a dot.
        config: timm's `pretrained_cfg`.
    """

    module: ModuleState
    path: str
    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """timm's name of it."""
        return str(self.config["architecture"])

    @property
    def pooling(self) -> str | None:
        """timm's name of its pooling, "" for none; None where it does not show."""
        stubs = (self.module.modules.get(f"{self.path}{name}") for name in ("global_pool", "head.global_pool"))
        names = [attributes(stub).get("pool_type") for stub in stubs if stub is not None]
        root = self.module.modules[self.path.removesuffix(".")]
        name = next(iter(names), attributes(root).get("global_pool"))
        return name if isinstance(name, str) else None


def timm_module(content: Any, container: Sequence[str], key: str) -> TimmModule | None:
    """The innermost network of timm that has a weight; None if there is none.

    Args:
        content: of the file.
        container, key: of the weight.
    """
    state = content_at(content, container)
    if not isinstance(state, ModuleState):
        return None
    parts = key.split(".")[:-1]
    paths = [".".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
    return next((found for path in paths if (found := _of_timm(state, path)) is not None), None)


def first_timm_module(content: Any, depth: int = _DEEPEST) -> TimmModule | None:
    """The first network of timm anywhere in a file."""
    if isinstance(content, ModuleState):
        return next((found for path in content.modules if (found := _of_timm(content, path)) is not None), None)
    inside = content.values() if isinstance(content, Mapping) and depth else ()
    return next((found for value in inside if (found := first_timm_module(value, depth - 1)) is not None), None)


def _of_timm(state: ModuleState, path: str) -> TimmModule | None:
    stub = state.modules.get(path)
    if stub is None or not stub.class_name.startswith("timm."):
        return None
    config = attributes_of(attributes(stub).get("pretrained_cfg") or attributes(stub).get("default_cfg"))
    return (
        TimmModule(state, f"{path}." if path else "", config) if isinstance(config.get("architecture"), str) else None
    )
