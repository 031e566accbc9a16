"""The weights of whole pickled modules (`torch.save(model)`) and TorchScript archives, found by structure alone."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignObject, UnpicklingError

_SCRIPT_NAME = re.compile(r"^__torch__\.|___torch_mangle_\d+\.")  # what TorchScript adds to a class's name
_MODULES = 100_000  # more than any network has; a pickle can repeat one module exponentially often
_DEPTH = 100
_SEARCH_DEPTH = 6


class ModuleState(dict[str, Tensor]):
    """The state dict of a pickled module: dotted key -> tensor.

    Attributes:
        class_name: of the module, such as "torchvision.models.resnet.ResNet".
        modules: dotted path -> what the pickle says about that module; "" for the module itself.
    """

    def __init__(self, tensors: Mapping[str, Tensor], class_name: str, modules: Mapping[str, ForeignObject]) -> None:
        super().__init__(tensors)
        self.class_name = class_name
        self.modules = dict(modules)

    @classmethod
    def of(cls, stub: ForeignObject) -> "ModuleState | None":
        """The state of a stub with a module's structure; None for any other."""
        if _parts(stub) is None:
            return None
        tensors: dict[str, Tensor] = {}
        modules: dict[str, ForeignObject] = {}
        for path, module in _walk(stub):
            modules[path] = module
            own, _ = _parts(module) or ({}, {})
            tensors |= {f"{path}.{name}" if path else name: tensor for name, tensor in own.items()}
        for module in modules.values():
            module.class_name = _SCRIPT_NAME.sub("", module.class_name)
        return cls(tensors, stub.class_name, modules)


def modules_of(stub: ForeignObject) -> dict[str, ForeignObject]:
    """Dotted path -> each module in a module, "" for itself; {} if the stub is not a module."""
    return {} if _parts(stub) is None else dict(_walk(stub))


def with_module_states(content: Any, depth: int = _SEARCH_DEPTH) -> Any:
    """`content` with a ModuleState in place of each pickled module in its dicts and lists, some levels deep."""
    if isinstance(content, ForeignObject):
        state = ModuleState.of(content)
        return content if state is None else state
    if depth and type(content) is list:
        content[:] = [with_module_states(entry, depth - 1) for entry in content]
    elif depth and isinstance(content, dict):
        for key, entry in content.items():
            content[key] = with_module_states(entry, depth - 1)
    return content


def _walk(stub: ForeignObject) -> Iterator[tuple[str, ForeignObject]]:
    """A module and all modules in it, in `named_modules`'s order; a module that occurs twice is listed twice."""
    waiting, seen = [("", stub, 0)], 0
    while waiting:
        path, module, depth = waiting.pop()
        seen += 1
        if seen > _MODULES or depth > _DEPTH:
            raise UnpicklingError("modules without end")
        yield path, module
        _, children = _parts(module) or ({}, {})
        waiting += [
            (f"{path}.{name}" if path else name, child, depth + 1) for name, child in reversed(children.items())
        ]


def _parts(stub: ForeignObject) -> tuple[dict[str, Tensor], dict[str, ForeignObject]] | None:
    """The tensors that a module owns and the modules in it; None if the stub is not a module."""
    state = stub.state
    if state is None and stub.args and isinstance(stub.args[0], Mapping):  # torch.fx's GraphModule
        state = stub.args[0]
    if not isinstance(state, Mapping):
        return None
    owned: Mapping[Any, Any]
    if isinstance(state.get("_parameters"), Mapping) and isinstance(state.get("_modules"), Mapping):
        buffers, hidden = state.get("_buffers"), state.get("_non_persistent_buffers_set")
        kept = buffers if isinstance(buffers, Mapping) else {}
        hidden = hidden if isinstance(hidden, set) else ()
        owned = {**state["_parameters"], **{name: kept[name] for name in kept if name not in hidden}}
        children = state["_modules"]
    elif stub.class_name.startswith("__torch__."):  # TorchScript: attributes of all kinds in one dict
        owned = children = state
    else:
        return None
    return (
        {name: value for name, value in owned.items() if isinstance(name, str) and isinstance(value, Tensor)},
        {name: value for name, value in children.items() if isinstance(name, str) and isinstance(value, ForeignObject)},
    )
