"""Unpickle without importing, calling or changing anything that the pickle names.

A pickle is a program. This interpreter of it builds containers, numbers and strings itself, asks `build` for the few
names that stand for plain data (tensors, arrays, dates, ...), and puts an inert `ForeignObject` in place of all others.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO

# A dictionary's key is hashed by recursion: a deeply nested tuple would exhaust the stack, a shared one the time.
_KEY_PARTS = 1000


class UnpicklingError(Exception):
    """The bytes are not a whole, well-formed pickle."""


@dataclass(frozen=True)
class ForeignClass:
    """A class or function that the pickle names, which is never imported. Compares and hashes by name."""

    class_name: str


@dataclass(eq=False, repr=False)
class ForeignObject:
    """What the pickle says about an object of a class that is never imported.

    Attributes:
        class_name: module and name, such as "argparse.Namespace".
        args: what the class would be called with.
        state: usually the object's `__dict__`; None if the pickle has none.
        items: contents of a subclass of list or dict; None if there are none.
        value: the plain value that it stands for once its state is known, such as a numpy array's tensor; else itself.
    """

    class_name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: Any = None

    def __post_init__(self) -> None:
        self.value: Any = self

    def __repr__(self) -> str:  # not of its parts, which may contain it
        return f"<{self.class_name}>"


# What stands for the object of a name called with arguments; NotImplemented if the name is not known to be plain data.
Build = Callable[[str, tuple[Any, ...]], Any]


def nothing_is_plain(name: str, args: tuple[Any, ...]) -> Any:
    """A `Build` that knows no names."""
    return NotImplemented


def no_persistent_objects(identifier: Any) -> Any:
    raise UnpicklingError("a persistent id in a pickle without storages")


class Unpickler:
    """Interprets one pickle.

    Args:
        file: at the pickle's first byte. It is left after its last.
        named: values of names that are plain data, such as torch.float32.
        build: called for every call that the pickle asks for.
        complete: called with a foreign object when its state is set; returns the value that it stands for.
        persistent: the object of a persistent id.
    """

    def __init__(
        self,
        file: BinaryIO,
        named: Mapping[str, Any] = MappingProxyType({}),
        build: Build = nothing_is_plain,
        complete: Callable[[ForeignObject], Any] = lambda stub: stub,
        persistent: Callable[[Any], Any] = no_persistent_objects,
    ) -> None:
        self._file, self._named = file, named
        self._build, self._complete, self._persistent = build, complete, persistent
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The pickled value.

        Raises:
            UnpicklingError: the pickle is damaged.
        """
        try:
            for code, argument, _ in pickletools.genops(self._file):
                name = code.name
                if name in _PUSHED:
                    self._stack.append(argument)
                elif name in _CONSTANTS:
                    self._stack.append(_CONSTANTS[name]())
                else:
                    _STEPS[name](self, argument)
            return self._pop()
        except (UnpicklingError, MemoryError):
            raise
        except Exception as error:  # bytes of any kind can raise any exception
            raise UnpicklingError(f"{type(error).__name__}: {error}") from error

    def _pop(self) -> Any:
        return _value(self._stack.pop())

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return [_value(item) for item in items]

    def _drop_to_mark(self) -> None:
        self._stack = self._outer.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _call(self, function: Any, args: Any, keywords: Mapping[str, Any] | None = None) -> None:
        args = tuple(args)
        result: Any = NotImplemented
        if isinstance(function, ForeignClass):
            name = function.class_name
            if not keywords:
                result = self._build(name, args)
        else:
            name = f"a call of {type(function).__name__}"
        self._stack.append(ForeignObject(name, args, keywords) if result is NotImplemented else result)

    def _reduce(self, _: object) -> None:
        args, function = self._pop(), self._pop()
        if not isinstance(args, tuple):
            raise UnpicklingError("arguments that are not a tuple")
        self._call(function, args)

    def _newobj_ex(self, _: object) -> None:
        keywords, args, function = self._pop(), self._pop(), self._pop()
        self._call(function, args, keywords)

    def _inst(self, names: str) -> None:
        args = self._pop_to_mark()
        self._call(_class(*names.split(" ", 1)), args)

    def _obj(self, _: object) -> None:
        function, *args = self._pop_to_mark()
        self._call(function, args)

    def _global(self, names: str) -> None:
        self._push_named(_class(*names.split(" ", 1)))

    def _stack_global(self, _: object) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise UnpicklingError("a name that is not a string")
        self._push_named(_class(module, name))

    def _push_named(self, named: ForeignClass) -> None:
        self._push(self._named.get(named.class_name, named))

    def _extension(self, code: int) -> None:
        self._stack.append(ForeignClass(f"copyreg.extension_{code}"))

    def _set_state(self, _: object) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, ForeignObject):
            if isinstance(target.state, dict) and isinstance(state, Mapping):
                target.state = {**target.state, **state}
            else:
                target.state = state
            target.value = self._complete(target)
        elif type(target) is OrderedDict and isinstance(state, Mapping) and "_metadata" in state:
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # versions of a state dict's modules
        # The state of other plain values, such as attributes of a tensor, says nothing about their content.

    def _append(self, items: Iterable[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, ForeignObject):
            if not isinstance(target.items, list):
                target.items = []
            target = target.items
        if isinstance(target, set):
            items = list(items)
            check_keys(items)
            target.update(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise UnpicklingError(f"items for a {type(target).__name__}")

    def _set_items(self, flat: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, ForeignObject):
            if not isinstance(target.items, dict):
                target.items = {}
            target = target.items
        if not isinstance(target, dict):
            raise UnpicklingError(f"entries for a {type(target).__name__}")
        keys = flat[::2]
        check_keys(keys)
        target.update(zip(keys, flat[1::2], strict=True))

    def _append_one(self, _: object) -> None:
        item = self._pop()
        self._append([item])

    def _set_one(self, _: object) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _mark(self, _: object) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _tuple_of(self, length: int) -> None:
        items = tuple(map(_value, self._stack[len(self._stack) - length :]))
        if len(items) < length:
            raise UnpicklingError("an empty stack")
        self._stack[len(self._stack) - length :] = [items]

    def _pop_one(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_to_mark()

    def _dict(self, _: object) -> None:
        flat = self._pop_to_mark()
        self._push({})
        self._set_items(flat)

    def _frozenset(self, _: object) -> None:
        items = self._pop_to_mark()
        check_keys(items)
        self._stack.append(frozenset(items))


def check_keys(keys: Iterable[Any]) -> None:
    """Raise UnpicklingError if hashing a key would take very long or exhaust the stack."""
    for key in keys:
        if not isinstance(key, tuple):
            continue
        parts, seen = [key], 0
        while parts:
            for part in parts.pop():
                seen += 1
                if isinstance(part, tuple):
                    parts.append(part)
            if seen + len(parts) > _KEY_PARTS:
                raise UnpicklingError("a key of too many parts")


def _value(item: Any) -> Any:
    return item.value if type(item) is ForeignObject else item


def _class(module: str, name: str) -> ForeignClass:
    return ForeignClass(f"{module}.{name}")


_PUSHED = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "FLOAT",
        "BINFLOAT",
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}


def _ignored(_: Unpickler, argument: Any) -> None:
    pass


_STEPS: dict[str, Callable[[Unpickler, Any], None]] = {
    "PROTO": _ignored,
    "FRAME": _ignored,
    "STOP": _ignored,
    "READONLY_BUFFER": _ignored,
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop_one,
    "POP_MARK": lambda self, _: self._drop_to_mark(),
    "DUP": lambda self, _: self._push(self._stack[-1]),
    "PUT": Unpickler._put,
    "BINPUT": Unpickler._put,
    "LONG_BINPUT": Unpickler._put,
    "MEMOIZE": lambda self, _: self._put(len(self._memo)),
    "GET": lambda self, index: self._push(self._memo[index]),
    "BINGET": lambda self, index: self._push(self._memo[index]),
    "LONG_BINGET": lambda self, index: self._push(self._memo[index]),
    "LIST": lambda self, _: self._push(self._pop_to_mark()),
    "TUPLE": lambda self, _: self._push(tuple(self._pop_to_mark())),
    "TUPLE1": lambda self, _: self._tuple_of(1),
    "TUPLE2": lambda self, _: self._tuple_of(2),
    "TUPLE3": lambda self, _: self._tuple_of(3),
    "DICT": Unpickler._dict,
    "FROZENSET": Unpickler._frozenset,
    "APPEND": Unpickler._append_one,
    "APPENDS": lambda self, _: self._append(self._pop_to_mark()),
    "ADDITEMS": lambda self, _: self._append(self._pop_to_mark()),
    "SETITEM": Unpickler._set_one,
    "SETITEMS": lambda self, _: self._set_items(self._pop_to_mark()),
    "GLOBAL": Unpickler._global,
    "STACK_GLOBAL": Unpickler._stack_global,
    "EXT1": Unpickler._extension,
    "EXT2": Unpickler._extension,
    "EXT4": Unpickler._extension,
    "REDUCE": Unpickler._reduce,
    "NEWOBJ": Unpickler._reduce,
    "NEWOBJ_EX": Unpickler._newobj_ex,
    "INST": Unpickler._inst,
    "OBJ": Unpickler._obj,
    "BUILD": Unpickler._set_state,
    "PERSID": lambda self, identifier: self._push(self._persistent(identifier)),
    "BINPERSID": lambda self, _: self._push(self._persistent(self._pop())),
}
