"""`hdf5:` images in a dataset of an HDF5 file: pixels, or the bytes of image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.files.hdf5_filters import require_filters
from simsiam_eval.files.hdf5_links import broken_link, broken_links, member, members
from simsiam_eval.files.hdf5_storage import UnstoredRows, require_stored, unstored_rows
from simsiam_eval.files.hdf5_texts import is_text, texts
from simsiam_eval.images.decode import open_image, open_wide
from simsiam_eval.images.opened import OpenedImage, UnreadableImage
from simsiam_eval.images.stored import StoredImage, read_stored
from simsiam_eval.images.wide import WideImage
from simsiam_eval.sources.array_names import IMAGE_NAMES, LABEL_NAMES, chosen_pair
from simsiam_eval.sources.base import as_utf8
from simsiam_eval.sources.file_state import file_state, files_key
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.per_process import PerProcess
from simsiam_eval.sources.pixel_rows import PixelRows, pixel_layout
from simsiam_eval.sources.split_column import rows_of_split, split_column
from simsiam_eval.sources.splits import choose_split, split_word
from simsiam_eval.vocabulary import FEATURE_FILE_FORMAT, NO_LABEL

if TYPE_CHECKING:
    import h5py

_MAX_SHOWN = 20
# Bytes, for the blocks of many threads. HDF5's default of 1 MiB is smaller than a chunk of several images, which would be
# decompressed again for each of them.
_CHUNK_CACHE = 256 << 20


def open_hdf5(
    file: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> Hdf5Source:
    """Rows in the order of the dataset; id = its name and the row number.

    Args:
        options: images: the dataset of the images, (N,H,W,3), (N,H,W) or (N,3,H,W) of numbers, or (N,) bytes of image
            files (variable-length uint8, or opaque); with selected channels also (N,H,W,C) or (N,C,H,W);
            label: the dataset of the labels, (N,) numbers or strings, or `none`;
            id: the dataset of the ids, (N,) strings; split: the group with these datasets, or the rows that a dataset
            `split` beside them names, or `none`. Common names are
            found without options.
        default_split: train or test, used where there are such groups and the options name none.
        no_label: as of `Labels`, which numbers the labels.

    Raises:
        DataError: not an HDF5 file, a feature file, no such dataset, wrong type or shape, wrong number of labels.
    """
    import h5py

    try:
        with h5py.File(file, "r", locking=False) as opened:
            if opened.attrs.get("format") == FEATURE_FILE_FORMAT:
                raise DataError(
                    f"{file} is a feature file, not images; pass it to linear-eval or knn as --train or --test."
                )
            column = _split_dataset(opened, options)
            if column is not None:
                requested = options.get("split")
                options = {name: value for name, value in options.items() if name != "split"}
            else:
                options = _named_arrays(opened, options, default_split, spec)
            group = opened if column is not None else _group(opened, options, default_split, spec)
            images = _dataset(group, options.get("images"), IMAGE_NAMES, "images", file)
            layout, why_not_rgb = _layout(images, file)
            if not len(images):
                raise DataError(f"{images.name} of {file} has no rows.")
            split, rows = None, None
            if column is not None:
                split, rows = _rows_of_split(opened[column], images, requested, default_split, spec)
            labels, where = _labels(group, images, options.get("label"), file, no_label, rows)
            ids = None
            if options.get("id"):
                ids = _ids(_dataset(group, options["id"], (), "id", file), images, file)
            key = files_key([file], "hdf5", 1, images.name, sorted(options.items()), *filter(None, [split]))
            numbers, names = labels.numbered(where)
            unstored = unstored_rows(images)
            source = Hdf5Source(spec, file, images.name, layout, numbers, names, ids, key, why_not_rgb, unstored, rows)
            source.notes += labels.notes()
            return source
    except OSError as error:
        raise DataError(f"{file} is not an HDF5 file, or it is damaged.") from error


class Hdf5Source(PixelRows):
    """Images of one dataset.

    Args:
        layout: as that of `PixelRows`, or "bytes".
        unstored: the rows that are not stored, whose images are unreadable; None if all are.
        rows: (M,) which rows of the dataset to read; default: all. `ids` and `unstored` are those of all.
    """

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
        why_not_rgb: str | None = None,
        unstored: UnstoredRows | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__(spec, labels, class_names, layout, why_not_rgb)
        self._unstored, self._rows = unstored, rows
        self._file, self._name, self._ids, self._key = file, name, ids, key
        self._datasets = PerProcess(self._open, 1)

    def id(self, row: int) -> str:
        row = self._row(row)
        return self._ids[row] if self._ids is not None else f"{self._name.lstrip('/')}/{row:08d}"

    def stored(self, row: int) -> StoredImage:
        return read_stored(self._content(row)) if self._layout == "bytes" else super().stored(row)

    def image(self, row: int) -> OpenedImage:
        return open_image(self._content(row)) if self._layout == "bytes" else super().image(row)

    def wide(self, row: int) -> WideImage | None:
        return open_wide(self._content(row)) if self._layout == "bytes" else super().wide(row)

    def _open(self, name: str) -> tuple[h5py.Dataset, h5py.File]:
        import h5py

        file = h5py.File(self._file, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE)
        require_filters(file[name], f"{name} of {self._file}")
        return file[name], file

    def _row(self, row: int) -> int:
        """The row of the dataset."""
        return row if self._rows is None else int(self._rows[row])

    def _stored(self, row: int) -> NDArray[Any]:
        row = self._row(row)
        if self._unstored is not None and (reason := self._unstored.reason(row)):
            raise UnreadableImage(f"not stored in the file: {reason}")
        try:
            return np.asarray(self._datasets(self._name)[0][row])
        except (OSError, KeyError, ValueError) as error:
            raise UnreadableImage(f"{self._file} cannot be read at this row: {error}") from error

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.array([file_state(self._file)[0]])

    def _files_key(self) -> str:
        return self._key


def _named_arrays(
    file: h5py.File, options: Mapping[str, str], default_split: str | None, spec: str
) -> Mapping[str, str]:
    """The options with the datasets of the chosen split where splits are in their names (x_train, y_train)."""
    import h5py

    names = [name for name, item in members(file).items() if isinstance(item, h5py.Dataset)]
    if (
        "images" in options
        or _common_name(file, IMAGE_NAMES)
        or not (pair := chosen_pair(names, options, default_split, spec))
    ):
        return options
    others = {name: value for name, value in options.items() if name != "split"}
    return {"images": pair.images, "label": pair.labels or "none", **others}


def _split_dataset(file: h5py.File, options: Mapping[str, str]) -> str | None:
    """The dataset beside the images that may name the split of each."""
    import h5py

    datasets = [name for name, item in members(file).items() if isinstance(item, h5py.Dataset)]
    images = options.get("images", "").strip("/") or _common_name(file, IMAGE_NAMES)
    return split_column(datasets, (images, options.get("label"), options.get("id"))) if images in datasets else None


def _rows_of_split(
    column: h5py.Dataset, images: h5py.Dataset, requested: str | None, default: str | None, spec: str
) -> tuple[str | None, NDArray[np.int64] | None]:
    """As `rows_of_split`; of a dataset of another shape or type every row."""
    if column.shape not in ((len(images),), (len(images), 1)) or not (is_text(column) or column.dtype.kind in "iu"):
        return choose_split((), requested, default, spec), None
    where = f"{column.name} of {column.file.filename}"
    require_stored(column, where)
    values = np.array(texts(column, where)) if is_text(column) else column[()]
    return rows_of_split(column.name.lstrip("/"), values, requested, default, spec)


def _group(file: h5py.File, options: Mapping[str, str], default_split: str | None, spec: str) -> h5py.Group:
    """The group of the chosen split; the file itself if it has no splits."""
    import h5py

    images = options.get("images", "").strip("/")
    if "split" not in options and (images in _dataset_names(file) or _common_name(file, IMAGE_NAMES)):
        return file
    groups = [name for name, item in members(file).items() if isinstance(item, h5py.Group)]
    # Another group may contain only notes.
    splits = [name for name in groups if split_word(name) or _common_name(file[name], IMAGE_NAMES)]
    split = choose_split(splits, options.get("split"), default_split, spec)
    return file if split is None else file[split]


def _common_name(group: h5py.Group, names: tuple[str, ...]) -> str | None:
    """The dataset, or the broken link, that has the first of these names, in any case."""
    import h5py

    found = members(group)
    datasets = {name.lower(): name for name in group if name not in found or isinstance(found[name], h5py.Dataset)}
    return next((datasets[name] for name in names if name in datasets), None)


def _dataset_names(group: h5py.Group) -> list[str]:
    import h5py

    names: list[str] = []
    group.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _dataset(group: h5py.Group, name: str | None, names: tuple[str, ...], option: str, file: Path) -> h5py.Dataset:
    """The dataset of this name, else of one of these names."""
    import h5py

    chosen = name.strip("/") if name else _common_name(group, names)
    if chosen is not None and isinstance(found := member(group, chosen), h5py.Dataset):
        return found
    if chosen is not None and (broken := broken_link(group, chosen)):
        raise DataError(f"{file}: {broken}; choose another dataset with #{option}=NAME.")
    datasets = _dataset_names(group)
    listed = ", ".join(datasets[:_MAX_SHOWN]) + (", ..." if len(datasets) > _MAX_SHOWN else "") or "none"
    missing = repr(chosen) if name else f"named {', '.join(names)}"
    broken = "".join(f"; {sentence}" for sentence in broken_links(group)[:_MAX_SHOWN])
    raise DataError(f"{file} has no dataset {missing}; expected one of {listed} (choose with #{option}=NAME){broken}.")


def _layout(images: h5py.Dataset, file: Path) -> tuple[str, str | None]:
    """The layout of a dataset, and why its pixels are neither RGB nor gray if they are not."""
    import h5py

    dtype, shape = images.dtype, images.shape
    where = f"{images.name} of {file}"
    if len(shape or ()) == 1 and (h5py.check_vlen_dtype(dtype) == np.uint8 or (dtype.kind == "V" and not dtype.names)):
        return "bytes", None
    if h5py.check_string_dtype(dtype):
        raise DataError(f"{where} contains strings; expected the bytes of image files as variable-length uint8.")
    return pixel_layout(dtype, shape or (), where)


def _labels(
    group: h5py.Group,
    images: h5py.Dataset,
    name: str | None,
    file: Path,
    no_label: Sequence[str],
    rows: NDArray[np.int64] | None,
) -> tuple[Labels, str]:
    """The labels of some rows, or of all, and the name of their dataset for messages."""

    labels, chosen = Labels(no_label), name or _common_name(group, LABEL_NAMES)
    if chosen is None or name == "none":
        labels.extend([""] * len(images if rows is None else rows))
        return labels, str(file)
    stored = _dataset(group, chosen, LABEL_NAMES, "label", file)
    where = f"{stored.name} of {file}"
    require_stored(stored, where)
    if is_text(stored):
        _require_rows(stored, images, where, "label")
        names = texts(stored, where)
        labels.extend(names if rows is None else (names[row] for row in rows))
        return labels, where
    if stored.dtype.kind not in "iufb":
        raise DataError(f"{where} contains {stored.dtype}; expected labels as whole numbers or strings.")
    _require_rows(stored, images, where, "label")
    values = stored[()]
    labels.extend_numbers(values if rows is None else values[rows])
    return labels, where


def _ids(stored: h5py.Dataset, images: h5py.Dataset, file: Path) -> PackedTexts:
    where = f"{stored.name} of {file}"
    if not is_text(stored):
        raise DataError(f"{where} contains {stored.dtype}; expected {len(images)} strings.")
    _require_rows(stored, images, where, "id")
    require_stored(stored, where)
    return PackedTexts(map(as_utf8, texts(stored, where, strict=False)))


def _require_rows(stored: h5py.Dataset, images: h5py.Dataset, where: str, what: str) -> None:
    if stored.size != len(images) or stored.shape[0] != len(images):
        raise DataError(f"{where} has shape {stored.shape}; expected one {what} for each of {len(images)} images.")
