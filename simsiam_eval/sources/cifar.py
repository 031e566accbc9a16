"""`cifar10:` and `cifar100:` published archives (python or binary version), their folders, or image folders."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import label_text
from simsiam_eval.sources.base import ArraySource, ImageSource
from simsiam_eval.sources.folder import open_folder
from simsiam_eval.sources.published import Read, file_reader
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
    python_files, binary_files = (getattr(version, split) for version in (dataset.python, dataset.binary))
    read = file_reader(
        path,
        (dataset.python.folder, dataset.binary.folder),
        {*python_files, *binary_files, dataset.python.names, dataset.binary.names},
    )
    if read(python_files[0]) is not None:
        pixels, labels = _python_batches(read, python_files, dataset.label_key, path)
        content = read(dataset.python.names)
        names = _class_names(_unpickle(content, path), dataset.names_key, path) if content else None
    elif read(binary_files[0]) is not None:
        pixels, labels = _binary_batches(read, binary_files, dataset.label_bytes, path)
        content = read(dataset.binary.names)
        names = label_text(content, f"{dataset.binary.names} of {path}").split() if content else None
    else:
        raise DataError(f"{path} contains no {python_files[0]}, {binary_files[0]} or folder {split}/; expected {kind}.")
    if names is not None and labels.max(initial=0) >= len(names):
        raise DataError(f"{path} is damaged: it has the label {labels.max()} but {len(names)} classes.")
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArraySource(spec, images, labels, names, [f"{split}/{row:05d}" for row in range(len(images))])


def _class_names(meta: dict[bytes, Any], key: bytes, path: Path) -> list[str]:
    names = meta.get(key)
    if not isinstance(names, list | tuple | np.ndarray) or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"The class names in {path} are damaged: there is no list {key.decode()}.")
    where = f"The class names of {path}"
    return [label_text(name, where) if isinstance(name, bytes) else str(name) for name in names]


def _python_batches(
    read: Read, names: tuple[str, ...], label_key: bytes, path: Path
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
    read: Read, names: tuple[str, ...], label_bytes: int, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rows = []
    for name in names:
        content = read(name)
        if not content or len(content) % (label_bytes + _PIXELS):
            raise DataError(f"{name} in {path} is missing or truncated ({len(content or b'')} bytes).")
        rows.append(np.frombuffer(content, dtype=np.uint8).reshape(-1, label_bytes + _PIXELS))
    table = np.concatenate(rows)
    return table[:, label_bytes:], table[:, label_bytes - 1].astype(np.int64)  # CIFAR-100: coarse label, then fine


def _array_of(content: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> NDArray[Any]:
    return np.frombuffer(content, dtype).reshape(shape, order=order)


# What a CIFAR batch consists of, in the pickles of every protocol and every NumPy.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): _array_of,  # protocol 5
    ("_codecs", "encode"): lambda text, encoding: str(text).encode(encoding),
    ("collections", "OrderedDict"): dict,
}


class _ArraysOnly(pickle.Unpickler):
    """Loads only what a CIFAR batch consists of and rejects every other name, so that nothing in the file is executed."""

    def find_class(self, module: str, name: str) -> Any:
        known = module.replace("numpy._core", "numpy.core"), name
        if known not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return _ALLOWED[known]


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
