"""Samples in JSON, one object each: FiftyOne's samples.json, a list, or JSON lines."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import TEXT, ForeignArray, rows_per_block
from simsiam_eval.files.text import encoding_of

_LIST_START = re.compile(r'\s*(?:\{\s*"samples"\s*:\s*)?\[')
_BETWEEN = re.compile(r"[,\s]*")
_READ = 1 << 20  # characters of text read at once
_LARGEST_VECTOR = 1 << 26  # bytes of one decompressed vector


def json_arrays(path: Path) -> list[ForeignArray]:
    """The fields of the samples: vectors (lists of numbers, or as FiftyOne stores them), text, numbers and classifications.

    Raises:
        DataError: not JSON, or not a list of objects.
    """
    rows = 0
    kinds: dict[str, tuple[Callable[[Any], Any], np.dtype, int]] = {}
    for sample in _samples(path):
        rows += 1
        for name, value in sample.items():
            if name not in kinds and (kind := _kind(value)):
                kinds[name] = kind
    return [_field(path, name, rows, *kind) for name, kind in kinds.items()]


def _kind(value: Any) -> tuple[Callable[[Any], Any], np.dtype, int] | None:
    """How the values of a field are read, their dtype, and the length of a vector, 0 for others; None to leave it out."""
    if isinstance(value, dict) and isinstance(value.get("label"), str):
        return (lambda found: found.get("label")), TEXT, 0
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        vector = _vector(value) if isinstance(value, str) else None
        if vector is None:
            return (lambda found: found), TEXT, 0
    vector = _vector(value)
    return None if vector is None else (_vector, vector.dtype, len(vector))


def _field(path: Path, name: str, rows: int, read: Callable[[Any], Any], dtype: np.dtype, width: int) -> ForeignArray:
    step = rows_per_block((rows, max(width, 1)), 8)

    def value_of(row: int, sample: dict[str, Any]) -> Any:
        found = sample.get(name)
        try:
            value = None if found is None else read(found)
        except AttributeError:
            value = None
        if not width:
            return value
        if found is None:
            return np.full(width, np.nan)
        if value is None or len(value) != width:
            raise DataError(f"{path} has no vector of {width} numbers in the field {name!r} of sample {row}.")
        return value

    def blocks() -> Iterator[NDArray[Any]]:
        block: list[Any] = []
        for row, sample in enumerate(_samples(path)):
            block.append(value_of(row, sample))
            if len(block) == step:
                yield np.array(block, dtype=np.float64 if width else object)
                block = []
        if block:
            yield np.array(block, dtype=np.float64 if width else object)

    return ForeignArray(name, (rows, width) if width else (rows,), dtype, blocks)


def _vector(value: Any) -> NDArray[Any] | None:
    """A vector of at least two numbers; None for anything else.

    FiftyOne stores vectors as zlib-compressed .npy, in base64.
    """
    if isinstance(value, list):
        numbers = len(value) > 1 and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
        return np.array(value, dtype=np.float64) if numbers else None
    if isinstance(value, dict):
        value = value.get("$binary")
        value = value.get("base64") if isinstance(value, dict) else value
    if not isinstance(value, str) or len(value) < 32:
        return None
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(value, validate=True), _LARGEST_VECTOR)
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (binascii.Error, zlib.error, ValueError, EOFError):
        return None
    return array if array.ndim == 1 and len(array) > 1 and array.dtype.kind in "fiu" else None


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of `{"samples": [...]}`, of `[...]`, or of JSON lines, one at a time."""
    try:
        with path.open(encoding=encoding_of(path)) as file:
            for sample in _objects(file, path):
                if not isinstance(sample, dict):
                    raise DataError(f"{path} contains {str(sample)[:20]} among its samples; expected objects.")
                yield sample
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}).") from error


def _objects(file: io.TextIOBase, path: Path) -> Iterator[Any]:
    decoder, text, at = json.JSONDecoder(), file.read(_READ), 0
    if start := _LIST_START.match(text):
        at, in_list = start.end(), True
    elif text.lstrip().startswith("{"):
        in_list = False  # JSON lines
    else:
        raise DataError(f'{path} is not JSON of samples; expected {{"samples": [...]}}, a list or an object per line.')
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if in_list and text.startswith("]", at):
            return
        try:
            found, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            text, at = text[at:], 0
            more = file.read(max(_READ, len(text)))
            if not more and not text and not in_list:
                return
            if not more:
                raise DataError(f"{path} is truncated or not valid JSON ({error}).") from error
            text += more
            continue
        yield found
