"""The few pickled types that are plain data, made from the arguments in the pickle: all others stay inert.

Nothing is looked up by a name from the file: each name in a table has its own function here, which checks its arguments.
"""

import datetime
import functools
import math
import pathlib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignClass, ForeignObject, UnpicklingError, check_keys

# A tensor may repeat its storage by strides of 0: more elements than this would be a trap.
_REPEATED_ELEMENTS = 2**24
_NUMERIC = re.compile(r"[<>=|]?[biufc]\d{1,2}")
_STORAGE_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    # Quantized tensors: their integers, since they are only recognized.
    "QInt8": torch.int8,
    "QUInt8": torch.uint8,
    "QInt32": torch.int32,
    "Untyped": torch.uint8,
}
NAMED: dict[str, Any] = {
    f"torch.{name}": dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)
}


@dataclass
class Storage:
    """A pickled tensor's memory; `data` may be set later than the tensors that use it are made."""

    dtype: torch.dtype
    data: torch.UntypedStorage | None = None
    waiting: list[Callable[[torch.UntypedStorage], None]] = field(default_factory=list)

    def provide(self, data: torch.UntypedStorage) -> None:
        """Set the memory, and that of all tensors that use it."""
        self.data = data
        for fill in self.waiting:
            fill(data)
        self.waiting.clear()

    def tensor(self, dtype: torch.dtype, offset: Any, size: Any, stride: Any) -> Tensor:
        """The view of the memory; UnpicklingError if it reaches beyond it."""
        sizes, strides = _counts(size), _counts(stride)
        (start,) = _counts((offset,))
        if len(sizes) != len(strides):
            raise UnpicklingError("sizes and strides of a tensor differ in number")
        elements = math.prod(sizes)
        end = start + 1 + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) if elements else 0
        tensor = torch.empty(0, dtype=dtype)

        def fill(data: torch.UntypedStorage) -> None:
            held = data.nbytes() // dtype.itemsize
            if end > held or elements > max(held, _REPEATED_ELEMENTS):
                raise UnpicklingError("a tensor reaches beyond its storage")
            tensor.set_(data, start if elements else 0, sizes, strides)

        if self.data is None:
            self.waiting.append(fill)
        else:
            fill(self.data)
        return tensor


def storage_dtype(named: Any) -> torch.dtype:
    """The dtype of a storage class, such as torch.FloatStorage."""
    if isinstance(named, ForeignClass):
        kind = named.class_name.rpartition(".")[2].removesuffix("Storage")
        if kind in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[kind]
    raise UnpicklingError(f"the storage type {named}")


def _counts(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(type(n) is int and 0 <= n < 2**62 for n in values):
        raise UnpicklingError("sizes, strides or an offset that are not positive integers")
    if len(values) > 64:
        raise UnpicklingError("a tensor of more than 64 dimensions")
    return tuple(values)


def build(name: str, args: tuple[Any, ...]) -> Any:
    """The plain value of a call, or NotImplemented.

    Raises:
        UnpicklingError: a tensor's description is impossible.
    """
    function = _TENSORS.get(name)
    if function:
        return function(*args)
    name = name.replace("__builtin__.", "builtins.", 1)
    function = _PLAIN.get(name)
    if not function:
        return NotImplemented
    try:
        return function(*args)
    except UnpicklingError:
        raise
    except Exception:  # arguments of another version of the library: kept as they are
        return NotImplemented


def complete(stub: ForeignObject) -> Any:
    """The tensor of a numpy array whose state is known; else the stub itself."""
    if stub.class_name != "numpy.ndarray" or not isinstance(stub.state, tuple) or len(stub.state) != 5:
        return stub
    _, shape, dtype, fortran, data = stub.state
    tensor = _numpy_tensor(data, dtype, shape, "F" if fortran else "C")
    return stub if tensor is NotImplemented else tensor


# Tensors.


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise UnpicklingError("a tensor without a storage")
    return storage.tensor(storage.dtype, offset, size, stride)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise UnpicklingError("a tensor without a storage")
    return storage.tensor(dtype, offset, size, stride)


def _quantized(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return _tensor(storage, offset, size, stride)


def _meta(dtype: Any, size: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(dtype, torch.dtype):
        return NotImplemented
    return torch.empty_strided(_counts(size), _counts(stride), dtype=dtype, device="meta")


def _sparse(layout: Any, data: Any, *_: Any) -> Any:
    if (
        layout != "torch.sparse_coo"
        or not isinstance(data, tuple)
        or not all(isinstance(part, Tensor) and part.numel() for part in data[:2])
    ):
        return NotImplemented
    return torch.sparse_coo_tensor(data[0], data[1], _counts(data[2]), check_invariants=True)


def _first(value: Any, *_: Any) -> Any:
    return value


def _subclass(function: Any, _: Any, args: Any, *state: Any) -> Any:
    """A tensor of a subclass of Tensor, as the plain tensor."""
    if isinstance(function, ForeignClass) and function.class_name in _TENSORS and isinstance(args, tuple):
        return build(function.class_name, args)
    return NotImplemented


def _array_tensor(array: Any, *_: Any) -> Any:
    return array if isinstance(array, Tensor) else NotImplemented


_REBUILDS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_qtensor": _quantized,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
    "_rebuild_meta_tensor_no_storage": _meta,
    "_rebuild_device_tensor_from_cpu_tensor": _first,
    "_rebuild_device_tensor_from_numpy": _array_tensor,
    "_rebuild_sparse_tensor": _sparse,
}
_TENSORS: dict[str, Callable[..., Any]] = {f"torch._utils.{name}": function for name, function in _REBUILDS.items()} | {
    "torch._tensor._rebuild_from_type": _subclass,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.tensor._rebuild_from_type_v2": _subclass,
    "torch.nn.parameter.Parameter": _array_tensor,
    "torch.nn.parameter.Buffer": _array_tensor,
    # TorchScript's marks of a list's type.
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
}

# numpy.


def _numpy_dtype(stub: Any) -> np.dtype | None:
    """The numeric dtype that a stub stands for."""
    if not isinstance(stub, ForeignObject) or stub.class_name != "numpy.dtype" or not stub.args:
        return None
    text = stub.args[0]
    if not isinstance(text, str) or not _NUMERIC.fullmatch(text):
        return None
    dtype = np.dtype(text)
    order = stub.state[1] if isinstance(stub.state, tuple) and len(stub.state) > 1 else "="
    return dtype.newbyteorder(">") if order == ">" else dtype


def _numpy_tensor(data: Any, stub: Any, shape: Any, order: Any) -> Any:
    dtype = _numpy_dtype(stub)
    if isinstance(data, str):  # a pickle of Python 2
        data = data.encode("latin-1")
    if dtype is None or not isinstance(data, bytes | bytearray):
        return NotImplemented
    sizes = _counts(shape)
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise UnpicklingError("an array that does not fill its shape")
    array = np.frombuffer(data, dtype) if math.prod(sizes) else np.empty(0, dtype)
    return tensor_of(array.reshape(sizes, order="F" if order == "F" else "C"))


def tensor_of(array: np.ndarray) -> Any:
    """The tensor of a numeric array, which it shares memory with where it can; NotImplemented for other arrays."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable:
        array = array.copy(order="K")
    try:
        return torch.from_numpy(array)
    except TypeError:
        return NotImplemented


def _numpy_scalar(stub: Any, data: Any = None) -> Any:
    tensor = _numpy_tensor(data, stub, (), "C")
    return tensor if tensor is NotImplemented else tensor.item()


def _numpy_buffer(data: Any, stub: Any, shape: Any, order: Any = "C", *_: Any) -> Any:
    return _numpy_tensor(data, stub, shape, order)


def _numpy_reconstruct(named: Any, *_: Any) -> Any:
    return ForeignObject(named.class_name) if isinstance(named, ForeignClass) else NotImplemented


# Python.


def _items(kind: Callable[[Any], Any], *args: Any) -> Any:
    """A container of the items given; a range, for one, might have more than memory holds."""
    if not args:
        return kind(())
    (items,) = args
    if not isinstance(items, list | tuple | set | frozenset | dict):
        return NotImplemented
    check_keys(items)
    if kind in (dict, OrderedDict) and not isinstance(items, dict):
        check_keys(key for key, _ in items)
    return kind(items)


def _default_dict(factory: Any = None, *args: Any) -> Any:
    return _items(dict, *args)


def _deque(items: Any = (), *_: Any) -> Any:
    return _items(list, items)


def _bytes(kind: type, *args: Any) -> Any:
    if all(isinstance(arg, bytes | bytearray | str) for arg in args[:1]) and args[1:] in (
        (),
        ("latin-1",),
        ("latin1",),
    ):
        return kind(args[0].encode("latin-1") if args and isinstance(args[0], str) else args[0] if args else b"")
    return NotImplemented


def _of(kind: Callable[..., Any], types: type | tuple[type, ...], *args: Any) -> Any:
    return kind(*args) if all(isinstance(arg, types) for arg in args) else NotImplemented


def _size(sizes: Any = ()) -> Any:
    return torch.Size(_counts(sizes))


def _reconstructor(named: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor`: an object of a class, of protocols 0 and 1."""
    if not isinstance(named, ForeignClass):
        return NotImplemented
    return ForeignObject(named.class_name, items=state if isinstance(state, list | dict) else None)


def _new_object(named: Any, *args: Any) -> Any:
    if not isinstance(named, ForeignClass):
        return NotImplemented
    value = build(named.class_name, args)
    return ForeignObject(named.class_name, args) if value is NotImplemented else value


def _new_object_with_keywords(named: Any, args: Any, keywords: Any) -> Any:
    return ForeignObject(named.class_name, tuple(args), keywords) if isinstance(named, ForeignClass) else NotImplemented


_PLAIN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": functools.partial(_items, OrderedDict),
    "collections.defaultdict": _default_dict,
    "collections.Counter": functools.partial(_items, dict),
    "collections.deque": _deque,
    "builtins.set": functools.partial(_items, set),
    "builtins.frozenset": functools.partial(_items, frozenset),
    "builtins.list": functools.partial(_items, list),
    "builtins.tuple": functools.partial(_items, tuple),
    "builtins.dict": functools.partial(_items, dict),
    "builtins.bytearray": functools.partial(_bytes, bytearray),
    "builtins.bytes": functools.partial(_bytes, bytes),
    "_codecs.encode": functools.partial(_bytes, bytes),
    "builtins.complex": functools.partial(_of, complex, (int, float)),
    "builtins.range": functools.partial(_of, range, int),
    "builtins.xrange": functools.partial(_of, range, int),
    "builtins.slice": functools.partial(_of, slice, (int, type(None))),
    "datetime.datetime": functools.partial(_of, datetime.datetime, (int, bytes, datetime.tzinfo)),
    "datetime.date": functools.partial(_of, datetime.date, (int, bytes)),
    "datetime.time": functools.partial(_of, datetime.time, (int, bytes, datetime.tzinfo)),
    "datetime.timedelta": functools.partial(_of, datetime.timedelta, int),
    "datetime.timezone": functools.partial(_of, datetime.timezone, (datetime.timedelta, str)),
    "torch.Size": _size,
    "torch.device": functools.partial(_of, torch.device, (str, int)),
    "torch.serialization._get_layout": functools.partial(_of, str, str),
    "copyreg._reconstructor": _reconstructor,
    "copy_reg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _new_object,
    "copyreg.__newobj_ex__": _new_object_with_keywords,
}
for _module in ("pathlib", "pathlib._local"):
    for _kind in ("Posix", "PurePosix", "Windows", "PureWindows"):
        _path = pathlib.PureWindowsPath if "Windows" in _kind else pathlib.PurePosixPath
        _PLAIN[f"{_module}.{_kind}Path"] = functools.partial(_of, _path, str)
for _module in ("numpy.core", "numpy._core"):
    _PLAIN[f"{_module}.multiarray._reconstruct"] = _numpy_reconstruct
    _PLAIN[f"{_module}.multiarray.scalar"] = _numpy_scalar
    _PLAIN[f"{_module}.numeric._frombuffer"] = _numpy_buffer
