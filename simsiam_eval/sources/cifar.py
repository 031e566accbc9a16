"""`cifar10:` and `cifar100:` published archives (python or binary version), their folders, or image folders."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import ArraySource, ImageSource
from simsiam_eval.sources.folder import open_folder
from simsiam_eval.sources.splits import NO_SPLIT, choose_split, split_of, train_or_test

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Version:
    """The files of one published version of a dataset: python (pickles) or binary."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str  # the file of the class names


@dataclass(frozen=True)
class _Dataset:
    python: _Version
    binary: _Version
    label_key: bytes  # in a batch of the python version
    names_key: bytes
    label_bytes: int  # before the pixels of an image in the binary version; the last is the label


_DATASETS = {
    "cifar10": _Dataset(
        _Version("cifar-10-batches-py", tuple(f"data_batch_{n}" for n in range(1, 6)), ("test_batch",), "batches.meta"),
        _Version(
            "cifar-10-batches-bin",
            tuple(f"data_batch_{n}.bin" for n in range(1, 6)),
            ("test_batch.bin",),
            "batches.meta.txt",
        ),
        b"labels",
        b"label_names",
        1,
    ),
    "cifar100": _Dataset(
        _Version("cifar-100-python", ("train",), ("test",), "meta"),
        _Version("cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt"),
        b"fine_labels",
        b"fine_label_names",
        2,
    ),
}


def open_cifar(
    kind: str, path: Path, spec: str, options: Mapping[str, str], default_split: str | None = None
) -> ImageSource:
    """The training set unless the options or the default name test; ids such as train/00042; fine labels for CIFAR-100.

    Raises:
        UsageError: a split that is neither train nor test.
        DataError: files are missing, damaged, or contain anything but arrays (no pickle is executed).
    """
    split = train_or_test(options.get("split", default_split), spec) or "train"
    folders = [file.name for file in path.iterdir() if file.is_dir()] if path.is_dir() else []
    if split in map(split_of, folders):
        folder = choose_split(filter(split_of, folders), split, None, spec)
        return open_folder(path / str(folder), spec, {"split": NO_SPLIT})
    dataset = _DATASETS[kind]
    read = _reader(path, (dataset.python.folder, dataset.binary.folder))
    python_files, binary_files = (getattr(version, split) for version in (dataset.python, dataset.binary))
    if read(python_files[0]) is not None:
        pixels, labels = _python_batches(read, python_files, dataset.label_key, path)
        content = read(dataset.python.names)
        names = [name.decode() for name in _unpickle(content, path)[dataset.names_key]] if content else None
    elif read(binary_files[0]) is not None:
        pixels, labels = _binary_batches(read, binary_files, dataset.label_bytes, path)
        content = read(dataset.binary.names)
        names = content.decode().split() if content else None
    else:
        raise DataError(f"{path} contains no {python_files[0]}, {binary_files[0]} or folder {split}/; expected {kind}.")
    if names is not None and labels.max(initial=0) >= len(names):
        raise DataError(f"{path} is damaged: it has the label {labels.max()} but {len(names)} classes.")
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArraySource(spec, images, labels, names, [f"{split}/{row:05d}" for row in range(len(images))])


def _reader(path: Path, sub_folders: tuple[str, ...]) -> Callable[[str], bytes | None]:
    """A function from a file name to its bytes in a folder, its published sub-folder, or an archive; None: no such file."""
    if path.is_dir():
        folders = [path, *(path / name for name in sub_folders)]

        def from_folder(name: str) -> bytes | None:
            return next(((folder / name).read_bytes() for folder in folders if (folder / name).is_file()), None)

        return from_folder
    try:
        with tarfile.open(path) as archive:
            files = {
                Path(member.name).name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isfile()
            }
            archive.fileobj.seek(archive.offset)  # type: ignore[union-attr]
            if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # type: ignore[union-attr]
                raise tarfile.ReadError(
                    "its end is missing"
                )  # truncated between two files, which tarfile does not notice
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataError(f"{path} is not a tar archive, or it is damaged: {reason}.") from error
    return files.get


def _python_batches(
    read: Callable[[str], bytes | None], names: tuple[str, ...], label_key: bytes, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, labels = [], []
    for name in names:
        content = read(name)
        if content is None:
            raise DataError(f"{path} has no {name}.")
        batch = _unpickle(content, path)
        try:
            data, label = np.asarray(batch[b"data"]), np.asarray(batch[label_key], dtype=np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{name} in {path} is not a CIFAR batch: {error}.") from error
        if data.dtype != np.uint8 or data.shape != (len(label), _PIXELS):
            raise DataError(f"{name} in {path} is damaged: {data.dtype} {data.shape} for {len(label)} labels.")
        pixels.append(data)
        labels.append(label)
    return np.concatenate(pixels), np.concatenate(labels)


def _binary_batches(
    read: Callable[[str], bytes | None], names: tuple[str, ...], label_bytes: int, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rows = []
    for name in names:
        content = read(name)
        if not content or len(content) % (label_bytes + _PIXELS):
            raise DataError(f"{name} in {path} is missing or truncated ({len(content or b'')} bytes).")
        rows.append(np.frombuffer(content, dtype=np.uint8).reshape(-1, label_bytes + _PIXELS))
    table = np.concatenate(rows)
    return table[:, label_bytes:], table[:, label_bytes - 1].astype(np.int64)  # CIFAR-100: coarse label, then fine


class _ArraysOnly(pickle.Unpickler):
    """Loads only what a CIFAR batch consists of and rejects every other name, so that nothing in the file is executed."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: str(text).encode(encoding)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _unpickle(content: bytes, path: Path) -> dict[bytes, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"A batch in {path} is damaged or not a CIFAR batch ({error}); nothing was executed."
        ) from error
    if not isinstance(batch, dict):
        raise DataError(f"A batch in {path} is not a CIFAR batch.")
    return {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
