"""Index of tar files: offset, name and label of each image. Only headers and label members are read."""

from __future__ import annotations

import io
import json
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import label_text
from simsiam_eval.images.formats import PREFIX, formats_of, has_image_ending, is_image_content
from simsiam_eval.runtime.progress import progress
from simsiam_eval.sources.archive_folders import class_folders, is_hidden, notes_on_pairs
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.remembered import Arrays
from simsiam_eval.sources.splits import NO_SPLIT
from simsiam_eval.sources.unread import ImageNames, unread_notes
from simsiam_eval.vocabulary import NO_LABEL

_COMPRESSED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d",
               b"\x04\x22\x4d\x18": "lz4 -d"}  # fmt: skip
_TEXT_MEMBERS = ("cls", "txt")
_MAX_KEYS = 50  # of .json members, for a message


class _Member(NamedTuple):
    name: str
    key: str  # the name up to the first dot of its last part: members of one key are one sample
    extension: str  # what follows that dot, in lower case
    offset: int
    size: int


@dataclass
class _Images:
    """The images of the shards read so far; the label is "" where a sample has no label member."""

    names: PackedTexts = field(default_factory=PackedTexts)
    labels: Labels = field(default_factory=Labels)
    shards: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    labeled: bool = False  # whether there was a label member
    files: ImageNames = field(default_factory=ImageNames)
    json_keys: set[str] = field(default_factory=set)  # of .json members without the wanted key


def reject_compressed(file: Path) -> None:
    """Raises DataError: the file is a compressed archive."""
    with file.open("rb") as content:
        start = content.read(6)
    command = next((command for magic, command in _COMPRESSED.items() if start.startswith(magic)), None)
    if command:
        raise DataError(
            f"{file} is compressed, so its images cannot be read one by one; make it a plain .tar "
            f"(`{command} {file.name}`) or unpack it."
        )


def tar_index(
    shards: list[Path],
    spec: str,
    label: str | None = None,
    image: str | None = None,
    folder: str | None = None,
    split: str | None = None,
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> Arrays:
    """Where each image lies.

    Args:
        label, image, folder, split, default_split, no_label: as those of `open_tar`.

    Returns:
        the arrays shard, offset, size and label, (N,) int64, and the packed texts name, class and note.

    Raises:
        DataError: as `open_tar`.
    """
    images = _Images(labels=Labels(no_label))
    with progress(f"index of {spec}", len(shards)) as advance:
        for number, shard in enumerate(shards):
            _add_shard(images, number, shard, label, image)
            advance(1)
    if not len(images.names):
        found = "".join(f" ({note})" for note in unread_notes(images.files.unread))
        raise DataError(f"{spec} has no images{f' ending in .{image}' if image else found}.")
    _reject_missing_labels(images, label, spec)
    rows, names, notes = np.arange(len(images.names)), images.names, list[str]()
    if images.labeled or label == "none":
        if folder or split not in (None, NO_SPLIT):
            option = "folder" if folder else "split"
            raise DataError(f"{spec}: #{option} requires class folders; the labels are taken from {label or 'cls'}.")
        labels, classes = images.labels.numbered(spec)
        notes = images.labels.notes()
    else:
        rows, names, labels, classes = class_folders(names, spec, folder, split, default_split)
        notes += notes_on_pairs(names, classes, spec, split, images.names[int(rows[0])])
    notes += unread_notes(images.files.unread)
    index: Arrays = {"label": labels}
    for column, values in (("shard", images.shards), ("offset", images.offsets), ("size", images.sizes)):
        index[column] = np.frombuffer(values, np.int64)[rows]
    index["name_bytes"], index["name_ends"] = names.arrays()
    index["class_bytes"], index["class_ends"] = PackedTexts(classes or ()).arrays()
    index["note_bytes"], index["note_ends"] = PackedTexts(notes).arrays()
    return index


def _reject_missing_labels(images: _Images, label: str | None, spec: str) -> None:
    if label in (None, "none") or images.labeled:
        return
    if label in _TEXT_MEMBERS:
        raise DataError(f"{spec} has no .{label} members for the labels.")
    keys = ", ".join(sorted(images.json_keys)) or "there are no .json members"
    raise DataError(f"No .json member of {spec} has the key {label!r} (keys: {keys}).")


def _add_shard(images: _Images, number: int, shard: Path, label: str | None, image: str | None) -> None:
    """Add the images of a shard, and their labels."""
    label_key, image_extension = label or "cls", image and image.lower().lstrip(".")
    label_extension = label_key if label_key in _TEXT_MEMBERS else "json"
    members: list[_Member] = []
    label_of: dict[str, str] = {}
    names: set[str] = set()
    with shard.open("rb") as content:
        for member in _members(shard):
            if member.name in names:
                raise DataError(f"{shard} contains {member.name} twice; repack it without the older member.")
            names.add(member.name)
            has_extension = member.extension == image_extension
            is_label = label != "none" and member.extension == label_extension
            if has_extension or (not image_extension and not is_label and _is_image(images, member, content.fileno())):
                members.append(member)
            elif is_label:
                text = os.pread(content.fileno(), member.size, member.offset)
                if label_extension == "json":
                    value = _json_value(images, text, label_key, shard, member.name)
                else:
                    value = label_text(text, f"{member.name} of {shard}").strip()
                if value is not None:
                    label_of[member.key] = value
    if label_of:
        images.labeled = True
        _reject_two_images(members, shard)
    images.names.extend(member.name for member in members)
    images.labels.extend(label_of.get(member.key, "") for member in members)
    images.shards.extend([number] * len(members))
    images.offsets.extend(member.offset for member in members)
    images.sizes.extend(member.size for member in members)


def _is_image(images: _Images, member: _Member, descriptor: int) -> bool:
    """Whether a member is an image, by its name or, where the ending is unknown, by its content."""

    def has_image_content() -> bool:
        prefix = os.pread(descriptor, min(member.size, PREFIX), member.offset)
        if not formats_of(prefix):
            return False
        return is_image_content(io.BytesIO(os.pread(descriptor, member.size, member.offset)))

    return images.files.is_image(os.path.basename(member.name), has_image_content)


def _members(shard: Path) -> Iterator[_Member]:
    """Every file in an archive, in order, by its headers.

    Raises:
        DataError: not a tar file, truncated, several archives in one, or an image that is a link.
    """
    try:
        with tarfile.open(shard, "r:") as archive:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every entry
                name = entry.name.removeprefix("./").lstrip("/")
                folder, _, last = name.rpartition("/")
                if is_hidden(name):
                    continue
                if entry.isreg() and not entry.issparse():
                    stem, _, extension = last.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    yield _Member(name, key, extension.lower(), entry.offset_data, entry.size)
                elif not entry.isdir() and has_image_ending(last):
                    raise DataError(
                        f"{name} in {shard} is a link or a sparse file; repack it with "
                        "`tar --dereference --hard-dereference`."
                    )
            end = archive.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{shard} is truncated or not a tar file ({error}); copy or download it again.") from error
    _reject_damaged_end(shard, end)


def _reject_damaged_end(shard: Path, end: int) -> None:
    with shard.open("rb") as content:
        content.seek(end)
        rest = content.read(1 << 20)
    if len(rest) < tarfile.BLOCKSIZE:
        raise DataError(f"{shard} is truncated (it has no end mark); copy or download it again.")
    if rest[: tarfile.BLOCKSIZE].strip(b"\0"):  # tarfile takes a header that it cannot read for the end
        raise DataError(f"{shard} is damaged at byte {end}; copy or download it again.")
    if rest.strip(b"\0"):
        raise DataError(
            f"{shard} has data after its end, like concatenated archives; unpack it with `tar -i` and repack it."
        )


def _json_value(images: _Images, content: bytes, key: str, shard: Path, name: str) -> str | None:
    """The value of a key as text, "" for null; None without that key."""
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name} in {shard} is not JSON: {error}.") from error
    if not isinstance(entries, dict):
        raise DataError(f"{name} in {shard} is not a JSON object.")
    if key not in entries:
        if len(images.json_keys) < _MAX_KEYS:
            images.json_keys.update(entries)
        return None
    value = entries[key]
    if isinstance(value, dict | list):
        raise DataError(f"{name} in {shard}: {key!r} is a {type(value).__name__}; expected a label.")
    return "" if value is None else str(value).strip()


def _reject_two_images(members: list[_Member], shard: Path) -> None:
    first: dict[str, _Member] = {}
    for member in members:
        other = first.setdefault(member.key, member)
        if other is not member:
            raise DataError(
                f"The sample {member.key} of {shard} has two images (.{other.extension}, .{member.extension}); "
                f"choose one with #image={other.extension}."
            )
