"""What a file contains without its weights, as JSON: keys, shapes, dtypes, class names and small values.

A tensor is `["T", shape, dtype]`; a mapping `{"D": type, "v": {...}}`; a sequence `{"L": type, "n": length, "v": its first
three}`; numpy `{"N": dtype, "shape": shape, "v": value of a scalar}`; an nn.Module `{"M": class, "v": attributes}`, and
any other object `{"O": class, "v": attributes}`. In a mapping, `"*0": {"R": table, "prefix": prefix, "dtype": dtype}`
stands for all tensors of a table of tables.json, whose keys repeat in many files; with `"same": prefix` they are the tensors
under another prefix.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Tables = dict[str, dict[str, list[int]]]
LONGEST_TEXT, FIRST_ENTRIES, DEEPEST, LARGE = 9000, 3, 8, 60
GEOMETRY = ("kernel_size", "stride", "padding", "dilation")  # of a module's attributes, only these tuples are recorded
_PLAIN = (str, int, float, bool, type(None))
_COUNTER = "num_batches_tracked"


def describe(value: Any, tables: Tables, name: str) -> Any:
    """The skeleton of a value; key lists that are not in a table yet are added to `tables` under `name`."""
    return _Describer(tables, name).describe(value)


class _Describer:
    """Skeletons of a file's values; a module that occurs again is `{"S": its number}`."""

    def __init__(self, tables: Tables, name: str) -> None:
        self._tables, self._name = tables, name
        self._modules: list[nn.Module] = []

    def describe(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Tensor):
            if _values_matter(value):
                raise ValueError("the values matter")
            return ["T", list(value.shape), str(value.dtype).removeprefix("torch.")]
        if isinstance(value, np.ndarray | np.generic):
            scalar = value.item() if value.ndim == 0 and value.dtype.kind in "biuf" else None
            return {"N": value.dtype.str, "shape": list(value.shape), "v": scalar}
        if type(value) in _PLAIN:
            return value[:LONGEST_TEXT] if isinstance(value, str) else value
        if type(value) in (dict, collections.OrderedDict, collections.defaultdict):
            return {"D": type(value).__name__, "v": self._mapping(value, depth + 1)}
        if type(value) in (list, tuple, set):
            first = [self.describe(entry, depth + 1) for entry in list(value)[:FIRST_ENTRIES]]
            return {"L": type(value).__name__, "n": len(value), "v": first}
        if isinstance(value, nn.Module):
            return self._module(value)
        return self._object(value, depth + 1)

    def _object(self, value: Any, depth: int) -> dict[str, Any]:
        kind = value if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType) else type(value)
        written = f"{kind.__module__}.{kind.__qualname__}"
        attributes = getattr(value, "__dict__", None)
        if kind is value or not isinstance(attributes, dict) or depth > DEEPEST:
            return {"O": written, "v": None}
        return {"O": written, "v": {str(key): self.describe(entry, depth) for key, entry in attributes.items()}}

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        tensors = {str(key): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}
        references = _references(tensors, self._tables, self._name)
        covered = {reference["prefix"] + key for reference in references for key in self._tables[reference["R"]]}
        described = {f"*{index}": reference for index, reference in enumerate(references)}
        numbered = all(isinstance(key, int) for key in value)  # an optimizer's state
        for key, entry in list(value.items())[: FIRST_ENTRIES if numbered else None]:
            if str(key) not in covered:
                described[str(key)] = self.describe(entry, depth)
        return described

    def _module(self, module: nn.Module) -> dict[str, Any]:
        for number, seen in enumerate(self._modules):
            if seen is module:
                return {"S": number}
        self._modules.append(module)
        found = {
            key: self.describe(getattr(module, key)) for key in GEOMETRY if isinstance(module.__dict__.get(key), tuple)
        }
        tensors = module._parameters | module._buffers
        found |= {key: self.describe(value.detach()) for key, value in tensors.items() if value is not None}
        found |= {key: self.describe(value) for key, value in module._modules.items()}
        return {"M": f"{type(module).__module__}.{type(module).__qualname__}", "v": found}


def _values_matter(tensor: Tensor) -> bool:
    return tensor.is_meta or bool(tensor.is_floating_point() and tensor.isnan().any())


def _references(tensors: dict[str, Tensor], tables: Tables, name: str) -> list[dict[str, str]]:
    """Tables whose tensors are all in the mapping under some prefix, each tensor at most once."""
    left = {key: tensor for key, tensor in tensors.items() if not _values_matter(tensor)}
    found: list[dict[str, str]] = []

    def take(table: str) -> bool:
        first, number = next(iter(tables[table])), len(found)
        for key in list(left):
            if key.endswith(first) and (reference := _reference(left, tables, table, key.removesuffix(first))):
                found.append(reference | _sharing(tensors, tables, reference, found))
        return len(found) > number

    for table in sorted(tables, key=lambda known: -len(tables[known])):
        take(table)
    while len(left) >= LARGE:
        table = f"{name}{len(found) or ''}"
        tables[table] = _new_table(left)
        if not take(table):  # several dtypes
            del tables[table]
            break
    return found


def _sharing(
    tensors: dict[str, Tensor], tables: Tables, reference: dict[str, str], others: list[dict[str, str]]
) -> dict[str, str]:
    """{"same": prefix} if these tensors are those of an earlier reference: two names of one network."""
    for other in others:
        pairs = [(tensors[reference["prefix"] + key], other["prefix"] + key) for key in tables[reference["R"]]]
        if other["R"] == reference["R"] and all(one.data_ptr() == tensors[key].data_ptr() for one, key in pairs):
            return {"same": other["prefix"]}
    return {}


def _reference(left: dict[str, Tensor], tables: Tables, table: str, prefix: str) -> dict[str, str] | None:
    """The reference, after its tensors were removed from `left`; None if they are not all there in one dtype."""
    shapes = tables[table]
    if any(list(left[prefix + key].shape) != shape if prefix + key in left else True for key, shape in shapes.items()):
        return None
    dtypes = {left[prefix + key].dtype for key in shapes if not key.endswith(_COUNTER)}
    counters = {left[prefix + key].dtype for key in shapes if key.endswith(_COUNTER)}
    if len(dtypes) != 1 or counters - {torch.int64}:
        return None
    for key in shapes:
        del left[prefix + key]
    return {"R": table, "prefix": prefix, "dtype": str(dtypes.pop()).removeprefix("torch.")}


def _new_table(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    """Key -> shape of the largest part of a mapping, without its prefix."""
    parts = collections.Counter(key.split(".")[0] for key in tensors)
    part, number = parts.most_common(1)[0]
    keys = [key for key in tensors if key.split(".")[0] == part] if number > 0.4 * len(tensors) else list(tensors)
    depth = 0
    while len({tuple(key.split(".")[: depth + 1]) for key in keys}) == 1:
        depth += 1
    prefix = "".join(f"{word}." for word in keys[0].split(".")[:depth])
    return {key.removeprefix(prefix): list(tensors[key].shape) for key in keys}


class Rebuilder:
    """Values of a skeleton, with random weights; classes that are not there get stand-ins of their name."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._classes: dict[str, type] = {}
        self._modules: list[nn.Module] = []
        # Positive, for variances; every tensor is a view, so that files stay small, and each is another view.
        self._numbers = torch.rand(8_000_000, generator=torch.Generator().manual_seed(0)) + 0.5
        self._made = 0

    def tensor(self, shape: list[int], dtype: str) -> Tensor:
        """A random tensor."""
        number = int(np.prod(shape))
        self._made += 1
        start = self._made * 997 % 1_000_000
        if dtype == "float32" and start + number <= len(self._numbers):
            return self._numbers[start : start + number].view(shape)
        filled = torch.full(shape, 1 + self._made / 1000)
        if dtype.startswith("q"):
            return torch.quantize_per_tensor(filled, 0.1, 0, getattr(torch, dtype))
        return filled.to(getattr(torch, dtype))

    def build(self, skeleton: Any) -> Any:
        """The content of a file, from its skeleton."""
        self._classes, self._modules = {}, []
        return self._value(skeleton)

    def _value(self, skeleton: Any) -> Any:
        if isinstance(skeleton, list):
            return self.tensor(skeleton[1], skeleton[2])
        if not isinstance(skeleton, dict):
            return skeleton
        if "D" in skeleton:
            values = self.mapping(skeleton["v"])
            return collections.OrderedDict(values) if skeleton["D"] == "OrderedDict" else values
        if "L" in skeleton:
            sequence = [self._value(entry) for entry in skeleton["v"]]
            return {"list": list, "tuple": tuple, "set": set}[skeleton["L"]](sequence)
        if "N" in skeleton:
            array = np.ones(skeleton["shape"]).astype(skeleton["N"])
            return array if skeleton["shape"] else array.dtype.type(skeleton["v"] or 0)
        if "S" in skeleton:
            return self._modules[skeleton["S"]]
        return self._module(skeleton) if "M" in skeleton else self._object(skeleton)

    def mapping(self, skeletons: dict[str, Any]) -> dict[str, Any]:
        """A dict of values, with the references to tables resolved."""
        values: dict[str, Any] = {}
        for key, skeleton in skeletons.items():
            if isinstance(skeleton, dict) and "R" in skeleton:
                for name, shape in self._tables[skeleton["R"]].items():
                    if "same" in skeleton:
                        values[skeleton["prefix"] + name] = values[skeleton["same"] + name]
                        continue
                    dtype = "int64" if name.endswith(_COUNTER) else skeleton["dtype"]
                    values[skeleton["prefix"] + name] = self.tensor(shape, dtype)
            else:
                values[key] = self._value(skeleton)
        return values

    def _class(self, written: str, base: type = object) -> type:
        module, _, name = written.rpartition(".")
        if written not in self._classes:
            self._classes[written] = type(name, (base,), {"__module__": module, "__qualname__": name})
        return self._classes[written]

    def _object(self, skeleton: dict[str, Any]) -> object:
        made = self._class(skeleton["O"])()
        made.__dict__.update(self.mapping(skeleton["v"] or {}))
        return made

    def _module(self, skeleton: dict[str, Any]) -> nn.Module:
        made = self._class(skeleton["M"], nn.Module)()
        self._modules.append(made)
        for key, value in self.mapping(skeleton["v"]).items():
            if isinstance(value, Tensor) and not key.startswith(("running_", _COUNTER)):
                made.register_parameter(key, nn.Parameter(value, requires_grad=False))
            elif isinstance(value, Tensor):
                made.register_buffer(key, value)
            else:
                setattr(made, key, value)
        return made

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """While a file is written, the stand-ins are found under the names of their modules."""
        before: dict[str, types.ModuleType | None] = {}
        for written, made in self._classes.items():
            module = written.rpartition(".")[0]
            for name in _with_parents(module):
                if name not in before:
                    before[name] = sys.modules.get(name)
                    sys.modules[name] = _copy_of(before[name], name)
            setattr(sys.modules[module], made.__name__, made)
        try:
            yield
        finally:
            for name, original in before.items():
                if original is None:
                    del sys.modules[name]
                else:
                    sys.modules[name] = original


def _with_parents(module: str) -> list[str]:
    """The module itself, and its parents where they are not imported.

    >>> _with_parents("collections.abc"), _with_parents("not_installed.config")
    (['collections.abc'], ['not_installed', 'not_installed.config'])
    """
    parts = module.split(".")
    parents = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return [name for name in parents if name not in sys.modules] + [module]


def _copy_of(module: types.ModuleType | None, name: str) -> types.ModuleType:
    copy = types.ModuleType(name)
    copy.__dict__.update(module.__dict__ if module is not None else {"__path__": []})
    return copy
