"""`hdf5:` images in a dataset of an HDF5 file: pixels, or the bytes of image files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import DecodedImage, OpenedImage, UnreadableImage, open_image
from simsiam_eval.sources.base import ImageSource, as_utf8, hashes_of
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.per_process import PerProcess
from simsiam_eval.sources.remembered import files_key, state_of_file
from simsiam_eval.sources.splits import choose_split, split_word

if TYPE_CHECKING:
    import h5py

_IMAGE_NAMES = ("images", "image", "imgs", "img", "x", "data")
_LABEL_NAMES = ("labels", "label", "y", "targets", "target")
# Bytes, for the blocks of many threads; HDF5's own 1 MiB holds no chunk of several images, which is then unpacked for each.
_CHUNK_CACHE = 256 << 20


def open_hdf5(file: Path, spec: str, options: Mapping[str, str], default_split: str | None = None) -> Hdf5Source:
    """Rows in the dataset's order; id = the dataset's name and the row's number.

    Args:
        options: images: the dataset of the images, (N,H,W,3), (N,H,W), (N,3,H,W) uint8, or (N,) of the bytes of image
            files (variable-length uint8, or opaque); label: that of the labels, (N,) integers or texts, or `none`; id:
            that of the ids, (N,) texts; split: the group in which they are. The common names are found.
        role: train or test, taken where there are such groups and the options name none.

    Raises:
        DataError: no HDF5 file, a feature file, no such dataset, the wrong type or shape, labels of another length.
    """
    import h5py

    try:
        with h5py.File(file, "r", locking=False) as opened:
            _refuse_features(opened, file)
            group = _group(opened, options, default_split, spec)
            images = _dataset(group, options.get("images"), _IMAGE_NAMES, "images", file)
            layout = _layout(images, file)
            if not len(images):
                raise DataError(f"{images.name} of {file} has no rows.")
            labels, names = _labels(group, images, options.get("label"), file)
            ids = None
            if options.get("id"):
                ids = PackedTexts(map(as_utf8, _texts(_dataset(group, options["id"], (), "id", file), images, file)))
            key = files_key([file], "hdf5", 1, images.name, sorted(options.items()))
            return Hdf5Source(spec, file, images.name, layout, labels, names, ids, key)
    except OSError as error:
        raise DataError(f"{file} is no HDF5 file, or it is damaged.") from error


class Hdf5Source(ImageSource):
    """Images of one dataset; layout is "HWC", "HW", "CHW" or "bytes"."""

    def __init__(
        self,
        spec: str,
        file: Path,
        name: str,
        layout: str,
        labels: NDArray[np.int64],
        class_names: list[str] | None,
        ids: PackedTexts | None,
        key: str,
    ) -> None:
        super().__init__(spec, labels, class_names)
        self._file, self._name, self._layout, self._ids = file, name, layout, ids
        self._key = key
        self._datasets = PerProcess(self._open, 1)

    def id(self, row: int) -> str:
        return self._ids[row] if self._ids is not None else f"{self._name.lstrip('/')}/{row:08d}"

    def image(self, row: int) -> OpenedImage:
        stored = self._stored(row)
        if self._layout == "bytes":
            return open_image(stored.tobytes())
        pixels = stored.transpose(1, 2, 0) if self._layout == "CHW" else stored
        return DecodedImage(
            np.ascontiguousarray(np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3)))
        )

    def _open(self, name: str) -> tuple[h5py.Dataset, h5py.File]:
        import h5py

        file = h5py.File(self._file, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE)
        return file[name], file

    def _stored(self, row: int) -> NDArray[Any]:
        try:
            return np.asarray(self._datasets(self._name)[0][row])
        except (OSError, KeyError, ValueError) as error:
            raise UnreadableImage(f"{self._file} cannot be read at this row: {error}") from error

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.array([state_of_file(self._file)[0]])

    def _files_key(self) -> str:
        return self._key

    def _content_hashes(self) -> Iterator[bytes]:
        return hashes_of(self._content, len(self))

    def _content(self, row: int) -> bytes:
        return self._stored(row).tobytes()


def _refuse_features(opened: h5py.File, file: Path) -> None:
    from simsiam_eval.features.file import FORMAT

    if opened.attrs.get("format") == FORMAT:
        raise DataError(f"{file} holds features, not images: linear-eval and knn take it as it is (--train, --test).")


def _group(file: h5py.File, options: Mapping[str, str], default_split: str | None, spec: str) -> h5py.Group:
    """The group of the chosen split; the file itself if it has no splits."""
    import h5py

    images = options.get("images", "").strip("/")
    if "split" not in options and (images in _dataset_names(file) or _found(file, _IMAGE_NAMES)):
        return file
    groups = [name for name, item in file.items() if isinstance(item, h5py.Group)]
    # Groups named after splits, else groups with images: another group may hold only notes.
    splits = list(filter(split_word, groups)) or [name for name in groups if _found(file[name], _IMAGE_NAMES)]
    split = choose_split(splits, options.get("split"), default_split, spec)
    return file if split is None else file[split]


def _found(group: h5py.Group, names: tuple[str, ...]) -> str | None:
    import h5py

    there = {name.lower(): name for name, item in group.items() if isinstance(item, h5py.Dataset)}
    return next((there[name] for name in names if name in there), None)


def _dataset_names(group: h5py.Group) -> list[str]:
    import h5py

    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def _dataset(group: h5py.Group, asked: str | None, names: tuple[str, ...], option: str, file: Path) -> h5py.Dataset:
    import h5py

    name = asked.strip("/") if asked else _found(group, names)
    if name is not None and isinstance(group.get(name), h5py.Dataset):
        return group[name]
    there = _dataset_names(group)
    shown = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "") or "none"
    missing = repr(name) if asked else f"named {', '.join(names)}"
    raise DataError(f"{file} has no dataset {missing}; it has: {shown} (name one with #{option}=NAME).")


def _layout(images: h5py.Dataset, file: Path) -> str:
    import h5py

    kind, shape = images.dtype, images.shape
    what = f"{images.name} of {file}"
    if len(shape or ()) == 1 and (h5py.check_vlen_dtype(kind) == np.uint8 or (kind.kind == "V" and not kind.names)):
        return "bytes"
    if h5py.check_string_dtype(kind):
        raise DataError(f"{what} holds texts, which cannot be images: store variable-length uint8.")
    if kind != np.uint8:
        raise DataError(f"{what} holds {kind}, not uint8: images are numbers from 0 to 255, or bytes of image files.")
    if len(shape) == 3:
        return "HW"
    if len(shape) == 4 and 0 not in shape[1:]:
        if shape[3] in (1, 3):
            return "HWC"
        if shape[1] in (1, 3):
            return "CHW"
    raise DataError(f"{what} has the shape {shape}: images are (N,H,W,3), (N,H,W) or (N,3,H,W), or (N,) of bytes.")


def _labels(
    group: h5py.Group, images: h5py.Dataset, asked: str | None, file: Path
) -> tuple[NDArray[np.int64], list[str] | None]:
    import h5py

    name = asked or _found(group, _LABEL_NAMES)
    if name is None or asked == "none":
        return np.full(len(images), -1), None
    stored = _dataset(group, name, _LABEL_NAMES, "label", file)
    if h5py.check_string_dtype(stored.dtype):
        labels = Labels()
        labels.extend(text.strip() for text in _texts(stored, images, file))
        return labels.numbered()
    if stored.dtype.kind not in "iub":
        raise DataError(f"{stored.name} of {file} holds {stored.dtype}: labels are integers or texts.")
    if stored.size != len(images) or stored.shape[0] != len(images):
        raise DataError(
            f"{stored.name} of {file} has the shape {stored.shape} for {len(images)} images: labels are one number each."
        )
    numbers = stored[()].reshape(-1).astype(np.int64)
    if numbers.min() < -1:
        raise DataError(f"{stored.name} of {file} has the label {numbers.min()}: labels count from 0, -1 is none.")
    return numbers, None


def _texts(stored: h5py.Dataset, images: h5py.Dataset, file: Path) -> list[str]:
    import h5py

    if not h5py.check_string_dtype(stored.dtype) or stored.shape != (len(images),):
        raise DataError(
            f"{stored.name} of {file} is {stored.dtype} {stored.shape}, where {len(images)} texts are needed."
        )
    return list(stored.asstr(errors="replace")[()])
