"""What is in tar files: where each image begins, its name and its label. Only headers and label members are read."""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.runtime.progress import progress
from simsiam_eval.sources.folder import EXTENSIONS, is_image
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.remembered import Arrays
from simsiam_eval.sources.splits import NO_SPLIT, choose_folder, choose_split, folder_layout, split_of

_COMPRESSED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d",
               b"\x04\x22\x4d\x18": "lz4 -d"}  # fmt: skip
_TEXT_MEMBERS = ("cls", "txt")


class _Member(NamedTuple):
    name: str
    key: str  # the name up to the first dot of its last part: members of one key are one sample
    extension: str  # what follows that dot, lower case
    offset: int
    size: int


@dataclass
class _Images:
    """Everything found so far; rows that are no samples with a label member have the label ""."""

    names: PackedTexts = field(default_factory=PackedTexts)
    labels: Labels = field(default_factory=Labels)
    shards: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    labeled: bool = False  # whether a label member was met
    keys_met: set[str] = field(default_factory=set)  # of .json members, where the wanted one was not among them


def refuse_compressed(file: Path) -> None:
    """Raises DataError: the file is a compressed archive."""
    with file.open("rb") as content:
        start = content.read(6)
    command = next((command for mark, command in _COMPRESSED.items() if start.startswith(mark)), None)
    if command:
        raise DataError(
            f"{file} is compressed, so that no image in it can be reached without reading all before it: make it a "
            f"plain .tar ({command} {file.name}) or unpack it."
        )


def tar_index(
    shards: list[Path],
    spec: str,
    label: str | None = None,
    image: str | None = None,
    folder: str | None = None,
    split: str | None = None,
    default_split: str | None = None,
) -> Arrays:
    """The arrays shard, offset, size, label (N,) int64 and the packed texts name, class; arguments as open_tar's.

    Raises:
        DataError: as open_tar.
    """
    found = _Images()
    with progress(f"index of {spec}", len(shards)) as advance:
        for number, shard in enumerate(shards):
            _add_shard(found, number, shard, label, image)
            advance(1)
    what = f"images (.{image})" if image else f"images ({', '.join(EXTENSIONS)})"
    if not len(found.names):
        raise DataError(f"{spec} holds no {what}.")
    rows = np.arange(len(found.names))
    names, classes = found.names, None
    if label not in (None, "none") and not found.labeled:
        if label in _TEXT_MEMBERS:
            raise DataError(f"{spec} has no .{label} members to take labels from.")
        there = ", ".join(sorted(found.keys_met)) or "there are no .json members"
        raise DataError(f"No .json member of {spec} has the key {label!r} (keys: {there}).")
    if found.labeled or label == "none":
        if folder or split not in (None, NO_SPLIT):
            option = "folder" if folder else "split"
            raise DataError(f"{spec}: #{option} is for class folders, and the labels are taken from {label or 'cls'}.")
        labels, classes = found.labels.numbered()
    else:
        rows, names, labels, classes = _in_folders(names, spec, folder, split, default_split)
    index: Arrays = {"label": labels}
    for column, values in (("shard", found.shards), ("offset", found.offsets), ("size", found.sizes)):
        index[column] = np.frombuffer(values, np.int64)[rows]
    index["name_bytes"], index["name_ends"] = names.arrays()
    index["class_bytes"], index["class_ends"] = PackedTexts(classes or ()).arrays()
    return index


def _add_shard(found: _Images, number: int, shard: Path, label: str | None, image: str | None) -> None:
    wanted, image = label or "cls", image and image.lower().lstrip(".")
    source_extension = wanted if wanted in _TEXT_MEMBERS else "json"
    images: list[_Member] = []
    texts: dict[str, str] = {}
    names: set[str] = set()
    with shard.open("rb") as content:
        for member in _members(shard):
            if member.name in names:
                raise DataError(f"{shard} holds {member.name} twice: pack it again without the older one.")
            names.add(member.name)
            if member.extension == image if image else is_image(os.path.basename(member.name)):
                images.append(member)
            elif label != "none" and member.extension == source_extension:
                text = os.pread(content.fileno(), member.size, member.offset)
                value = (
                    _json_value(found, text, wanted, shard, member.name) if source_extension == "json" else _text(text)
                )
                if value is not None:
                    texts[member.key] = value
    if texts:
        found.labeled = True
        _refuse_two_images(images, shard)
    found.names.extend(member.name for member in images)
    found.labels.extend(texts.get(member.key, "") for member in images)
    found.shards.extend([number] * len(images))
    found.offsets.extend(member.offset for member in images)
    found.sizes.extend(member.size for member in images)


def _members(shard: Path) -> Iterator[_Member]:
    """Every file of an archive, in order, by its headers.

    Raises:
        DataError: no tar file, truncated, several archives in one, or an image that is a link.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            while (one := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all it has met
                name = one.name.removeprefix("./").lstrip("/")
                place, _, last = name.rpartition("/")
                if one.isreg() and not one.issparse():
                    stem, _, extension = last.partition(".")
                    key = f"{place}/{stem}" if place else stem
                    yield _Member(name, key, extension.lower(), one.offset_data, one.size)
                elif not one.isdir() and is_image(last):
                    raise DataError(
                        f"{name} in {shard} is a link or a sparse file: pack it again with tar's --dereference "
                        "--hard-dereference."
                    )
            end = archive.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{shard} is truncated or no tar file ({error}): get it again.") from error
    with shard.open("rb") as content:
        content.seek(end)
        rest = content.read(1 << 20)
    if len(rest) < tarfile.BLOCKSIZE:
        raise DataError(f"{shard} is truncated (it has no end mark): get it again.")
    if rest[: tarfile.BLOCKSIZE].strip(b"\0"):  # tarfile takes a header that it cannot read for the end
        raise DataError(f"{shard} is damaged at byte {end}: get it again.")
    if rest.strip(b"\0"):
        raise DataError(
            f"{shard} goes on behind its end, as joined archives do: unpack it with tar -i and pack it again."
        )


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip()


def _json_value(found: _Images, content: bytes, key: str, shard: Path, name: str) -> str | None:
    """The value of a key as a text, "" for null; None where the key is not there."""
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name} in {shard} is no JSON text: {error}.") from error
    if not isinstance(entries, dict):
        raise DataError(f"{name} in {shard} is no JSON object with keys.")
    if key not in entries:
        if len(found.keys_met) < 50:
            found.keys_met.update(entries)
        return None
    value = entries[key]
    if isinstance(value, dict | list):
        raise DataError(f"{name} in {shard}: {key!r} is no label but a {type(value).__name__}.")
    return "" if value is None else str(value).strip()


def _refuse_two_images(images: list[_Member], shard: Path) -> None:
    first: dict[str, _Member] = {}
    for member in images:
        other = first.setdefault(member.key, member)
        if other is not member:
            raise DataError(
                f"The sample {member.key} of {shard} has two images (.{other.extension}, .{member.extension}): "
                f"choose one with #image={other.extension}."
            )


def _in_folders(
    names: PackedTexts, spec: str, folder: str | None, split: str | None, default_split: str | None
) -> tuple[np.ndarray, PackedTexts, np.ndarray, list[str] | None]:
    """The rows of the chosen split, their names below the class folders, their labels, and the classes."""
    top = f"{folder.strip('/')}/" if folder else _shared_folder(names)
    if not any(name.startswith(top) for name in names):
        raise DataError(f"{spec} has no images in a folder {top[:-1]} (the first image: {names[0]}).")
    top = _split_folder(names, top, spec, split, default_split)
    rows = np.array([row for row, name in enumerate(names) if name.startswith(top)], dtype=np.int64)
    kept = PackedTexts(names[row][len(top) :] for row in rows)
    flat = sum("/" not in name for name in kept)
    if flat == len(kept):
        return rows, kept, np.full(len(kept), -1), None
    if flat:
        raise DataError(
            f"{spec} has images beside class folders; name the folder of the class folders with #folder=PATH, or "
            "read the images without labels with #label=none."
        )
    classes = sorted({name.partition("/")[0] for name in kept})
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.fromiter((numbers[name.partition("/")[0]] for name in kept), np.int64, len(kept))
    return rows, kept, labels, classes


def _split_folder(names: PackedTexts, top: str, spec: str, split: str | None, default_split: str | None) -> str:
    """`top` and the folder of the chosen split below it, with a slash at the end."""
    sub_folders = _sub_folders(names, top)
    if "" in sub_folders:  # images lie beside the folders, or there are none
        choose_split((), split, default_split, spec)
        return top
    chosen = choose_folder(sorted(sub_folders), sub_folders.__getitem__, split, default_split, spec)
    if chosen is None:
        return top
    top = f"{top}{chosen}/"
    sub_folders = _sub_folders(names, top)
    while len(sub_folders) == 1 and chosen.lower() in map(str.lower, sub_folders):
        top = f"{top}{next(iter(sub_folders))}/"  # train/train, as some archives are packed
        sub_folders = _sub_folders(names, top)
    layout = folder_layout(sorted(sub_folders), sub_folders.__getitem__)
    if layout.splits and not layout.unclear:
        raise DataError(f"{spec}: {top[:-1]} has splits ({', '.join(layout.splits)}); choose one with #folder=PATH.")
    return top


def _sub_folders(names: PackedTexts, top: str) -> dict[str, set[str]]:
    """Folder below `top` -> the folders in it; "" where images lie in `top` itself."""
    folders: dict[str, set[str]] = {}
    for name in names:
        if name.startswith(top):
            first, *others = name[len(top) :].split("/")[:-1] or [""]
            folders.setdefault(first, set()).update(others[:1])
    return folders


def _shared_folder(names: PackedTexts) -> str:
    """The folders, with a slash at the end, that all names begin with; without that of a split, unless splits follow."""
    shared = names[0].split("/")[:-1]
    for name in names:
        pairs = zip(shared, name.split("/")[:-1], strict=False)
        shared = [part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
        if not shared:
            return ""
    top = "".join(f"{part}/" for part in shared)
    sub_folders = _sub_folders(names, top)
    layout = folder_layout(sorted(sub_folders), sub_folders.__getitem__)
    if layout.splits and not layout.unclear:
        return top
    return "".join(f"{part}/" for part in itertools.takewhile(lambda part: not split_of(part), shared))
