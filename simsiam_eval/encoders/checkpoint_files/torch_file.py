"""Read what torch.save, torch.jit.save and pickle.dump write: tensors by mmap, everything else as plain data or stubs."""

import functools
import io
import os
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import torch

from simsiam_eval.encoders.checkpoint_files import pickled_values
from simsiam_eval.encoders.checkpoint_files.pickled_values import Storage, storage_dtype
from simsiam_eval.encoders.checkpoint_files.unpickler import Unpickler, UnpicklingError

# The pickled magic number at the start of torch.save's format before 1.6.
LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_COMPRESSED_PICKLE = 2**28  # bytes that a compressed pickle may have: a limit for zip bombs
_NESTED = 2  # storages in pickled bytes in pickled bytes


class Source:
    """A file or bytes, to be read and to be mapped into memory."""

    def __init__(self, file: BinaryIO, size: int, map_whole: Callable[[], torch.UntypedStorage]) -> None:
        self.file, self.size, self._map_whole = file, size, map_whole

    @classmethod
    def of_file(cls, file: BinaryIO, path: str) -> "Source":
        """Of an open file. Its tensors change if the file is overwritten, but not if it is replaced."""
        size = os.fstat(file.fileno()).st_size
        return cls(file, size, lambda: cast(torch.UntypedStorage, torch.UntypedStorage.from_file(path, False, size)))

    @classmethod
    def of_bytes(cls, data: bytes | bytearray) -> "Source":
        return cls(io.BytesIO(data), len(data), lambda: _storage_of(bytearray(data)))

    @functools.cached_property
    def mapped(self) -> torch.UntypedStorage:
        return self._map_whole()

    def storage(self, start: int, length: int) -> torch.UntypedStorage:
        """The bytes [start, start + length), copied when they are first written."""
        if start < 0 or length < 0 or start + length > self.size:
            raise UnpicklingError("a storage beyond the end of the file")
        return self.mapped[start : start + length] if length else torch.UntypedStorage(0)

    def part(self, start: int, length: int) -> "Source":
        """The bytes [start, start + length) as a file of their own."""
        window = cast(BinaryIO, _Window(self.file, start, length))
        return Source(window, length, lambda: self.storage(start, length))

    # What pickletools needs of a file. No read is longer than the rest of the file, whatever the pickle says.

    def read(self, length: int) -> bytes:
        return self.file.read(max(0, min(length, self.size - self.file.tell())))

    def readline(self) -> bytes:
        return self.file.readline(2**20)

    def tell(self) -> int:
        return self.file.tell()


class _Window:
    """Part of a file, with what zipfile needs of one."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError("a position before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, length: int = -1) -> bytes:
        rest = max(0, self._length - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(rest if length < 0 else min(length, rest))
        self._position += len(data)
        return data


def pickle_name(archive: zipfile.ZipFile) -> str | None:
    """The pickle of an archive that torch.save or torch.jit.save wrote, also if it was packed again; else None."""
    names = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    return names[0] if len(names) == 1 else None


def read_torch(source: Source, archive: zipfile.ZipFile) -> Any:
    """The content of an archive that torch.save or torch.jit.save wrote.

    Raises:
        UnpicklingError: the archive is damaged.
    """
    name = pickle_name(archive)
    if name is None:
        raise UnpicklingError("no data.pkl")
    folder = name.removesuffix("data.pkl")
    members = {info.filename: info for info in archive.infolist()}
    order = members.get(f"{folder}byteorder")
    swapped = order is not None and archive.open(order).read(8) == b"big"
    storages: dict[Any, Storage] = {}

    def persistent(identifier: Any) -> Storage:
        kind, named, key, _, count = identifier
        if kind != "storage" or not isinstance(key, str) or type(count) is not int or count < 0:
            raise UnpicklingError("an unknown persistent id")
        if key not in storages:
            dtype = storage_dtype(named)
            data = member_storage(source, archive, members[f"{folder}data/{key}"], count * dtype.itemsize)
            if swapped:
                data.byteswap(dtype)
            storages[key] = Storage(dtype, data)
        return storages[key]

    info = members[name]
    limit = info.file_size if info.compress_type == zipfile.ZIP_STORED else _COMPRESSED_PICKLE
    return _load(io.BytesIO(archive.open(info).read(limit)), persistent)


def member_storage(
    source: Source, archive: zipfile.ZipFile, info: zipfile.ZipInfo, length: int
) -> torch.UntypedStorage:
    """The first `length` bytes of an archive's member."""
    if length > info.file_size:
        raise UnpicklingError("a storage larger than its record")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        data = archive.open(info).read(length)
        if len(data) < length:
            raise UnpicklingError("a storage that is cut off")
        return _storage_of(bytearray(data))
    source.file.seek(info.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(source.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise UnpicklingError("a damaged zip archive")
    return source.storage(info.header_offset + _LOCAL_HEADER.size + name_length + extra_length, length)


def read_legacy(source: Source, nested: int = 0) -> Any:
    """What torch.save wrote before 1.6: the pickle, then all storages one after another.

    Args:
        source: at any position.
        nested: how many pickles this one is in.

    Raises:
        UnpicklingError: the file is damaged.
    """
    storages: dict[Any, Storage] = {}

    def persistent(identifier: Any) -> Any:
        if identifier[0] == "module":  # a class, and its source code
            return identifier[1]
        kind, named, key, _, _, view = identifier
        if kind != "storage" or not isinstance(key, str | int):
            raise UnpicklingError("an unknown persistent id")
        storage = storages.setdefault(key, Storage(storage_dtype(named)))
        return storage if view is None else _view(storages, storage, view)

    source.file.seek(0)
    magic, protocol, system = _load(source), _load(source), _load(source)
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise UnpicklingError("a wrong magic number")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise UnpicklingError("a file of a big-endian machine")
    content = _load(source, persistent, nested)
    for key in _load(source):
        (count,) = struct.unpack("<q", source.read(8))
        length = count * storages[key].dtype.itemsize
        start = source.tell()
        storages[key].provide(source.storage(start, length))
        source.file.seek(start + length)
    if any(storage.waiting for storage in storages.values()):
        raise UnpicklingError("tensors without their storage")
    return content


def _view(storages: dict[Any, Storage], whole: Storage, view: Any) -> Storage:
    """Part of a storage, as saved by PyTorch 0.1."""
    key, offset, count = view
    if not isinstance(key, str | int) or ("view", key) in storages:
        return storages[("view", key)]
    size = whole.dtype.itemsize
    part = storages[("view", key)] = Storage(whole.dtype)

    def fill(data: torch.UntypedStorage) -> None:
        if not 0 <= offset <= offset + count <= data.nbytes() // size:
            raise UnpicklingError("a view beyond its storage")
        part.provide(data[offset * size : (offset + count) * size])

    whole.waiting.append(fill)
    return part


def read_pickle(source: Source) -> Any:
    """What pickle.dump wrote.

    Raises:
        UnpicklingError: the pickle is damaged.
    """
    source.file.seek(0)
    return _load(source)


def _load(file: Any, persistent: Callable[[Any], Any] | None = None, nested: int = 0) -> Any:
    def build(name: str, args: tuple[Any, ...]) -> Any:
        if name == "torch.storage._load_from_bytes" and nested < _NESTED and isinstance(args[0], bytes):
            return _storage_in_bytes(args[0], nested + 1)
        return pickled_values.build(name, args)

    options = {} if persistent is None else {"persistent": persistent}
    return Unpickler(file, pickled_values.NAMED, build, pickled_values.complete, **options).load()


def _storage_in_bytes(data: bytes, nested: int) -> Storage:
    """A storage that pickle.dump has pickled: a file of torch.save's in the pickle."""
    storage = read_legacy(Source.of_bytes(data), nested)
    if not isinstance(storage, Storage):
        raise UnpicklingError("bytes that are not a storage")
    return storage


def _storage_of(data: bytearray) -> torch.UntypedStorage:
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)
