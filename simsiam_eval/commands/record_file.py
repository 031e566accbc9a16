"""Read the record of a command from a file, whatever version of this program wrote it: the one place that knows versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simsiam_eval.commands.record import RECORD_VERSION
from simsiam_eval.errors import DataError
from simsiam_eval.files.text import text_encoding

NAME = "simsiam-eval"  # the value of the key "record"
_MARK = f'"{NAME}"'
_HEAD_BYTES = 4096  # our records have the mark there; one that another program has sorted may not
_MAX_SEARCHED = 1 << 24  # bytes of a file that is searched for the mark beyond its head
_MAX_BYTES = 1 << 28
_SHA_DIGITS = 8
# What a version is changed by to become the next one: version -> function of the plain values.
_TO_NEXT_VERSION: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {0: lambda values: values}


class NotARecord(DataError):
    """The file is no record of a command."""


@dataclass(frozen=True)
class Record:
    """A record, in the form of the current version.

    Attributes:
        task, protocol, metrics, settings, provenance, files, faults: as of `Result`.
        version: `record_version` of the file.
        path: the file.
    """

    task: str
    protocol: str | None
    metrics: dict[str, Any]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    files: dict[str, str]
    faults: tuple[str, ...]
    version: int
    path: Path

    @property
    def finished(self) -> str | None:
        """When the command ended, such as 2026-12-01T12:00:00Z."""
        return _text(self.provenance.get("finished"))

    @cached_property
    def encoders(self) -> tuple[str, ...]:
        """Architecture and first digits of the hash of every encoder, each once, in the order of the record."""
        found = list(map(encoder_label, _encoders_in(self.provenance)))
        if not found and {"arch", "weights_sha256"} <= set(self.metrics):  # inspect
            found = [encoder_label(self.metrics)]
        if not found and isinstance(arch := self.provenance.get("arch") or self.settings.get("arch"), str):
            found = [encoder_label({"arch": arch, "weights_sha256": self.metrics.get("weights_sha256")})]
        return tuple(dict.fromkeys(found))

    @cached_property
    def data(self) -> tuple[str, ...]:
        """Image sources (of imported features their files), each once, tested ones before training ones."""
        return tuple(dict.fromkeys(_data_in(self.provenance)))


def read_record(path: Path) -> Record:
    """The record in a file.

    Raises:
        NotARecord: it is not one, such as other JSON.
        DataError: it cannot be read, is damaged, or was written by a newer version of this program.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(_HEAD_BYTES)
            encoding = text_encoding(content)
            in_head = _MARK in content.decode(encoding, "ignore")
            if in_head and size > _MAX_BYTES:
                raise DataError(f"{path} has {size >> 20} MiB; records of at most {_MAX_BYTES >> 20} MiB are read.")
            if not in_head and size > _MAX_SEARCHED:
                raise NotARecord(f"{path} is not a record of simsiam-eval.")
            content += file.read()
        text = content.decode(encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        reason = f"{path} is not text in UTF-8"
        raise DataError(f"{reason}: it is damaged.") if in_head else NotARecord(f"{reason}.") from error
    if not text.strip():
        raise DataError(f"{path} is empty: the command that should have written it failed or is still running.")
    if _MARK not in text:
        raise NotARecord(f"{path} is not a record of simsiam-eval.")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not in_head:
            raise NotARecord(f"{path} is not a record of simsiam-eval.") from error
        raise DataError(f"{path} is a damaged record: it is not valid JSON ({error}).") from error
    return record_of(values, path)


def record_of(values: Any, path: Path) -> Record:
    """The record that plain values from JSON are. Raises as `read_record`; `path` is for messages."""
    if not isinstance(values, dict) or values.get("record") != NAME:
        raise NotARecord(f"{path} is not a record of simsiam-eval.")
    version = values.get("record_version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise DataError(f"{path} is a damaged record: its record_version is {version!r}.")
    if version > RECORD_VERSION:
        raise DataError(
            f"{path} was written by a newer version of simsiam-eval (record version {version}; this one reads up to "
            f"{RECORD_VERSION}): update simsiam-eval."
        )
    for number in range(version, RECORD_VERSION):
        values = _TO_NEXT_VERSION[number](values)
    groups = {key: values.get(key) or {} for key in ("metrics", "settings", "provenance", "files")}
    wrong = [key for key, group in groups.items() if not isinstance(group, dict)]
    task, faults = values.get("task"), values.get("faults") or []
    if wrong or not isinstance(task, str) or not isinstance(faults, list):
        raise DataError(f"{path} is a damaged record: its {[*wrong, 'task or faults'][0]} cannot be understood.")
    return Record(
        task=task,
        protocol=_text(values.get("protocol")),
        faults=tuple(map(str, faults)),
        version=version,
        path=path,
        **groups,
    )


def encoder_label(attributes: Mapping[str, Any]) -> str:
    """An encoder in a table.

    >>> encoder_label({"arch": "resnet18", "weights_sha256": "bc851c06600c2a76"})
    'resnet18 bc851c06'
    >>> encoder_label({"imported": True, "name": None}), encoder_label({"arch": "resnet50"})
    ('imported', 'resnet50')
    """
    if attributes.get("imported"):
        name = attributes.get("name")
        return "imported" if name is None else f"imported {name}"
    digits = str(attributes.get("weights_sha256") or "")[:_SHA_DIGITS]
    return " ".join(filter(None, [str(attributes.get("arch") or "unknown"), digits]))


def _encoders_in(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The attributes of encoders: of sets of features, or by initialization."""
    for key, value in provenance.items():
        if key == "encoder" and isinstance(value, Mapping):
            yield value
        elif key == "encoders" and isinstance(value, Mapping):
            yield from (encoder for encoder in value.values() if isinstance(encoder, Mapping))
        elif key not in ("versions", "head", "settings"):
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, Mapping):
                    yield from _encoders_in(item)


def _data_in(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Specs of the sources of sets of features, and of images given without any."""
    first = ("test", "queries", "tests", "sets", "files", "source", "data")
    keys = [key for key in first if key in provenance] + [key for key in provenance if key not in first]
    for key in keys:
        value = provenance[key]
        for item in value if isinstance(value, list) else (value,):
            if key == "data" and isinstance(item, str):
                yield item
            if not isinstance(item, Mapping) or key in ("versions", "encoder", "encoders", "head", "preprocessing"):
                continue
            spec = item.get("spec") or item.get("imported_from")
            yield from map(str, spec if isinstance(spec, list) else [spec] if spec else [])
            if key != "source":
                yield from _data_in(item)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
