"""`cifar10:` and `cifar100:` the published archives (python and binary version) or their folders, and image folders."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import ArraySource, ImageSource
from simsiam_eval.sources.folder import open_folder
from simsiam_eval.sources.splits import NO_SPLIT, choose_split, split_of, train_or_test

_PIXELS = 3 * 32 * 32
# dataset: split -> its files in the python and in the binary version; then file and key of the class names.
_LAYOUT: dict[str, dict[str, Any]] = {
    "cifar10": {
        "train": ([f"data_batch_{n}" for n in range(1, 6)], [f"data_batch_{n}.bin" for n in range(1, 6)]),
        "test": (["test_batch"], ["test_batch.bin"]),
        "names": ("batches.meta", b"label_names", "batches.meta.txt"),
        "folders": ("cifar-10-batches-py", "cifar-10-batches-bin"),
        "label": b"labels",
        "label_bytes": 1,
    },
    "cifar100": {
        "train": (["train"], ["train.bin"]),
        "test": (["test"], ["test.bin"]),
        "names": ("meta", b"fine_label_names", "fine_label_names.txt"),
        "folders": ("cifar-100-python", "cifar-100-binary"),
        "label": b"fine_labels",
        "label_bytes": 2,
    },
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
    layout = _LAYOUT[kind]
    folders = [file.name for file in path.iterdir() if file.is_dir()] if path.is_dir() else []
    if split in map(split_of, folders):
        folder = choose_split(filter(split_of, folders), split, None, spec)
        return open_folder(path / str(folder), spec, {"split": NO_SPLIT})
    read = _reader(path, layout)
    python_files, binary_files = layout[split]
    if read(python_files[0]) is not None:
        pixels, labels = _python_batches(read, python_files, layout["label"], path)
        meta = read(layout["names"][0])
        names = [name.decode() for name in _unpickle(meta, path)[layout["names"][1]]] if meta else None
    elif read(binary_files[0]) is not None:
        pixels, labels = _binary_batches(read, binary_files, layout["label_bytes"], path)
        text = read(layout["names"][2])
        names = text.decode().split() if text else None
    else:
        raise DataError(
            f"{path} holds neither {python_files[0]} nor {binary_files[0]} nor a folder {split}/ of {kind}."
        )
    if names is not None and labels.max(initial=0) >= len(names):
        raise DataError(f"{path} is damaged: label {labels.max()} of {len(names)} classes.")
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArraySource(spec, images, labels, names, [f"{split}/{row:05d}" for row in range(len(images))])


def _reader(path: Path, layout: dict[str, Any]) -> Callable[[str], bytes | None]:
    """name -> bytes of that file in a folder, its published sub-folder or an archive; None where there is none."""
    if path.is_dir():
        places = [path, *(path / name for name in layout["folders"])]

        def from_folder(name: str) -> bytes | None:
            return next(((place / name).read_bytes() for place in places if (place / name).is_file()), None)

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
                raise tarfile.ReadError("its end is missing")  # cut between two files, which tarfile takes for the end
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataError(f"{path} is not a tar archive, or it is damaged: {reason}.") from error
    return files.get


def _python_batches(
    read: Callable[[str], bytes | None], names: list[str], label_key: bytes, path: Path
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
    read: Callable[[str], bytes | None], names: list[str], label_bytes: int, path: Path
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
    """Reads what a CIFAR batch is made of and refuses every other name: nothing of the file is executed."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: str(text).encode(encoding)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpickle(content: bytes, path: Path) -> dict[bytes, Any]:
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle fails in any way
        raise DataError(
            f"A batch in {path} is damaged or not a CIFAR batch ({error}); nothing was executed."
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"A batch in {path} is not a CIFAR batch.")
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}
