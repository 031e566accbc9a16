"""`zip:` zip archives of image folders; images are read in place."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.images.formats import PREFIX, formats_of, image_endings, is_image_content
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.runtime.progress import progress
from simsiam_eval.sources.archive import ArchiveSource, archives
from simsiam_eval.sources.archive_folders import class_folders, is_hidden, notes_on_pairs
from simsiam_eval.sources.file_state import files_key
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.remembered import Arrays, remembered_arrays
from simsiam_eval.sources.shards import is_pattern, names_of
from simsiam_eval.sources.unread import ImageNames, unread_notes

_LOCAL_HEADER = 30  # bytes before an entry's name, extra field and content
_ENCRYPTED = 0x1


def open_zip(path: Path, spec: str, options: Mapping[str, str], default_split: str | None = None) -> ZipSource:
    """Rows sorted by class and name, as those of a folder; the id is the image's name below the class folders.

    Args:
        path: a .zip file, a pattern (`part-{1..3}.zip`, `*.zip`) or a folder of .zip files.
        options: label: `none` ignores class folders; folder: the folder in the archive that contains the class folders;
            split: one of the splits in the file names or top folders, or `none` for all.
        default_split: train or test, used where there are splits and the options name none.

    Raises:
        DataError: an archive is missing, damaged, encrypted, or compressed by another method than Deflate; there are no
            images; splits and classes cannot be distinguished.
    """
    if options.get("label") not in (None, "none"):
        raise DataError(f"{spec}: the labels of a zip archive are its class folders; expected #label=none or no label.")
    files, split_in_names = archives(path, spec, ".zip", options, default_split)
    splits = (None, None) if split_in_names else (options.get("split"), default_split)
    settings = [*map(options.get, ("label", "folder")), *splits]
    key = files_key(files, "zip", 3, *settings, image_endings())
    index = remembered_arrays(key, lambda: _index(files, spec, *settings))
    has_several = is_pattern(str(path)) or path.is_dir()
    return ZipSource(spec, files, index, key, names_of(files) if has_several else None)


class ZipSource(ArchiveSource):
    """Images in zip archives; `index` also has offset, compressed size, method and checksum of each."""

    def __init__(self, spec: str, files: list[Path], index: Arrays, key: str, names: list[str] | None) -> None:
        super().__init__(spec, files, index, key, names)
        self._offset, self._compressed, self._method = index["offset"], index["compressed"], index["method"]
        self._checksum = index["checksum"]

    def _read(self, descriptor: int, row: int) -> bytes:
        offset, size = int(self._offset[row]), int(self._size[row])
        header = self._read_at(descriptor, row, offset, _LOCAL_HEADER)
        if not header.startswith(b"PK\x03\x04"):
            raise UnreadableImage("its header in the archive is damaged")
        start = offset + _LOCAL_HEADER + sum(np.frombuffer(header, "<u2", 2, 26).tolist())
        content = self._read_at(descriptor, row, start, int(self._compressed[row]))
        if self._method[row] == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            except zlib.error as error:
                raise UnreadableImage(f"it cannot be decompressed ({error})") from error
        if len(content) != size or zlib.crc32(content) != self._checksum[row]:
            raise UnreadableImage("its content does not match the checksum in the archive")
        return content


def _index(
    files: list[Path], spec: str, label: str | None, folder: str | None, split: str | None, default_split: str | None
) -> Arrays:
    entries: list[tuple[int, zipfile.ZipInfo]] = []
    files_read = ImageNames()
    with progress(f"index of {spec}", len(files)) as advance:
        for number, file in enumerate(files):
            entries += ((number, entry) for entry in _images(file, files_read))
            advance(1)
    if not entries:
        found = "".join(f" ({note})" for note in unread_notes(files_read.unread))
        raise DataError(f"{spec} has no images{found}.")
    names = PackedTexts(_name(entry) for _, entry in entries)
    notes = list[str]()
    rows, labels, classes = np.arange(len(names)), np.full(len(names), -1), None
    if label is None:
        every = names
        rows, names, labels, classes = class_folders(every, spec, folder, split, default_split)
        notes += notes_on_pairs(names, classes, spec, split, every[int(rows[0])])
    order = np.array(sorted(range(len(rows)), key=lambda row: (labels[row], names[row])), dtype=np.int64)
    chosen = [entries[row] for row in rows[order]]
    index: Arrays = {"label": labels[order], "shard": np.array([number for number, _ in chosen])}
    for column, attribute in {
        "offset": "header_offset",
        "size": "file_size",
        "compressed": "compress_size",
        "method": "compress_type",
        "checksum": "CRC",
    }.items():
        index[column] = np.array([getattr(entry, attribute) for _, entry in chosen], dtype=np.int64)
    index["name_bytes"], index["name_ends"] = PackedTexts(names[row] for row in order.tolist()).arrays()
    index["class_bytes"], index["class_ends"] = PackedTexts(classes or ()).arrays()
    index["note_bytes"], index["note_ends"] = PackedTexts(notes + unread_notes(files_read.unread)).arrays()
    return index


def _images(file: Path, files_read: ImageNames) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return _images_of(archive, file, files_read)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise DataError(f"{file} is truncated or not a zip archive ({error}); copy or download it again.") from error


def _images_of(archive: zipfile.ZipFile, file: Path, files_read: ImageNames) -> list[zipfile.ZipInfo]:
    images, names = [], set()
    for entry in archive.infolist():
        name = _name(entry)
        if entry.is_dir() or is_hidden(name):
            continue
        if not files_read.is_image(os.path.basename(name), partial(_has_image_content, archive, entry)):
            continue
        if name in names:
            raise DataError(f"{file} contains {name} twice; repack it without the older entry.")
        if entry.flag_bits & _ENCRYPTED:
            raise DataError(f"{file} is encrypted; unpack it with its password.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = zipfile.compressor_names.get(entry.compress_type, entry.compress_type)  # type: ignore[attr-defined]
            raise DataError(f"{file} is compressed with {method}; expected Deflate or none: repack it with `zip -r`.")
        names.add(name)
        images.append(entry)
    return images


def _has_image_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as content:
            prefix = content.read(PREFIX)
            return bool(formats_of(prefix)) and is_image_content(io.BytesIO(prefix + content.read()))
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, OSError):  # encrypted, or damaged
        return False


def _name(entry: zipfile.ZipInfo) -> str:
    """The name of an entry; archives written on Windows may have backslashes."""
    name = entry.filename if "/" in entry.filename else entry.filename.replace("\\", "/")
    return name.removeprefix("./").lstrip("/")
