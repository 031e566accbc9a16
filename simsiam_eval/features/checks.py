"""Checks of a feature file: its datasets, rows and ids, read block by block in constant memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.features.reader import FeatureBlock, FeatureReader
from simsiam_eval.runtime.progress import progress
from simsiam_eval.wording import counted

# Rows that differ by less than this share of their length do not depend on the image: a collapsed encoder.
COLLAPSED = 1e-3
_HASHES = 1 << 20  # of ids in memory at once
_COMPARED = 1000  # ids with equal hashes that are compared character by character


@dataclass
class Check:
    """One line of the report: what was checked, the result, and a sentence for every error and warning."""

    name: str
    found: str = ""
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


def check_layout(reader: FeatureReader) -> Check:
    """Whether all datasets exist, with matching shapes and types."""
    file, rows = reader.file, len(reader)
    check = Check("datasets", f"{rows} rows: " + ", ".join([*reader.columns, "labels", "ids", "valid", "errors"]))

    def expect(name: str, holds: bool, wanted: str) -> None:
        if not holds:
            check.faults.append(f"The dataset {name} is {_described(file[name])}, not {wanted}.")

    floats = ("float32", "float16")
    for name in reader.columns:
        dimensions = 3 if name == "views" else 2
        fits = file[name].ndim == dimensions and len(file[name]) == rows and 0 not in file[name].shape
        wanted = f"{dimensions}-dimensional float32 or float16 with {rows} rows"
        expect(name, fits and str(file[name].dtype) in floats, wanted)
    for name, wanted in (("labels", "int64"), ("ids", "UTF-8 text"), ("valid", "bool")):
        if name not in file:
            check.faults.append(f"The dataset {name} is missing.")
            continue
        text = h5py.check_string_dtype(file[name].dtype) is not None
        expect(name, file[name].shape == (rows,) and (text if name == "ids" else file[name].dtype == wanted),
               f"({rows},) {wanted}")  # fmt: skip
    expect("errors", file["errors"].ndim == 1 and file["errors"].dtype.names == ("row", "id", "reason"),
           "a table of row, id, reason")  # fmt: skip
    views = reader.attributes["views"] or {}
    if views.get("count", 0) != reader.columns.get("views", (0,))[0]:
        check.faults.append("The attribute views and the dataset views do not match.")
    return check


def _described(data_set: h5py.Dataset) -> str:
    return f"{data_set.shape} {data_set.dtype}"


def check_rows(reader: FeatureReader) -> list[Check]:
    """Features, validity, errors and labels of every row, and hashes of all datasets."""
    rows, norms = _RowChecks(reader), _Norms()
    with progress(f"verify {reader.path.name}", len(reader)) as advance:
        for block in reader.blocks():
            rows.add(block)
            norms.add(block)
            advance(len(block.rows))
    content = {name: digest.hexdigest() for name, digest in rows.digests.items()}
    return [
        *rows.checks(),
        norms.check(),
        Check("sha256", f"features {content['features'][:16]}...", metrics={"sha256": content}),
    ]


class _RowChecks:
    """Counts every kind of error, with its first row."""

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader
        self._wrong: dict[tuple[str, str], tuple[int, int]] = {}
        self.digests = {name: hashlib.sha256() for name in (*reader.columns, "labels", "ids", "valid")}
        error_rows = reader.file["errors"]["row"]
        self._sorted = bool((np.diff(error_rows) > 0).all())
        self._errors, self._invalid = len(error_rows), 0
        if self._errors and not 0 <= error_rows[0] <= error_rows[-1] < len(reader):
            self._sorted = False

    def add(self, block: FeatureBlock) -> None:
        valid = self._reader.file["valid"][block.rows.start : block.rows.stop].view(np.uint8)
        self._note("valid", "have a byte in `valid` that is neither 0 nor 1", block, valid > 1)
        self._invalid += int((valid == 0).sum())
        for name, values in block.columns.items():
            flat = values.reshape(len(values), -1)
            self._note("finite", f"of {name} are not finite", block, ~np.isfinite(flat).all(axis=1))
            zero = ~flat.any(axis=1)
            self._note("finite", f"of {name} are all zeros although valid", block, zero & (valid != 0))
            self._note("finite", f"of {name} hold features although their image could not be read", block,
                       ~zero & (valid == 0))  # fmt: skip
        if self._sorted:
            reasons = self._reader.reasons(block.rows)
            named = np.isin(np.asarray(block.rows), list(reasons))
            self._note("errors", "are not valid and have no entry in `errors`", block, (valid == 0) & ~named)
            self._note("errors", "are in `errors` although valid", block, (valid != 0) & named)
            other = [row in reasons and reasons[row][0] != name.replace("\0", "\\0")
                     for row, name in zip(block.rows, block.ids, strict=True)]  # fmt: skip
            self._note("errors", "have another id in `errors`", block, np.array(other))
        names = self._reader.attributes["source"].get("class_names")
        top = len(names) if names is not None else math.inf
        self._note("labels", f"have a label below -1{'' if names is None else f' or above {len(names) - 1}'}", block,
                   (block.labels < -1) | (block.labels >= top))  # fmt: skip
        stored = {**block.columns, "labels": block.labels, "valid": valid}
        for name, stored_values in stored.items():
            self.digests[name].update(np.ascontiguousarray(stored_values).data)
        self.digests["ids"].update("".join(f"{name}\0" for name in block.ids).encode())

    def _note(self, check: str, what: str, block: FeatureBlock, wrong: NDArray[np.bool_]) -> None:
        count = int(wrong.sum())
        if count:
            before, first = self._wrong.get((check, what), (0, block.rows.start + int(wrong.argmax())))
            self._wrong[check, what] = (before + count, first)

    def checks(self) -> Iterable[Check]:
        found = {
            "valid": f"{len(self._reader) - self._invalid} valid, {self._invalid} not",
            "finite": "all values" if not any(key[0] == "finite" for key in self._wrong) else "",
            "errors": f"{self._errors} entries for {self._invalid} rows that are not valid",
            "labels": "in range",
        }
        checks = {name: Check(name, text) for name, text in found.items()}
        for (name, what), (count, first) in self._wrong.items():
            (label,) = self._reader.ids(range(first, first + 1))
            checks[name].faults.append(f"{count} rows {what}; the first is row {first}, {label}.")
        if not self._sorted:
            checks["errors"].faults.append("The rows in `errors` are not ascending, or not rows of the file.")
        for check in checks.values():
            check.found = "" if check.faults and check.name in ("finite", "labels") else check.found
        return checks.values()


class _Norms:
    """Lengths of the valid rows of `features`, and their spread."""

    def __init__(self) -> None:
        # A positive float32 sorts as its bits do: the first 19 of them make bins of 0.05 %, whatever the range.
        self._counts = np.zeros(1 << 19, dtype=np.int64)
        self._least, self._most, self._squares, self._sum = math.inf, 0.0, 0.0, np.zeros(())
        self._rows = 0

    def add(self, block: FeatureBlock) -> None:
        rows = block.columns["features"][block.valid].astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return
        lengths = np.linalg.norm(rows, axis=1)
        self._counts += np.bincount(lengths.astype(np.float32).view(np.int32) >> 12, minlength=1 << 19)
        self._least, self._most = min(self._least, lengths.min()), max(self._most, lengths.max())
        self._squares += float((lengths**2).sum())
        self._sum, self._rows = self._sum + rows.sum(axis=0), self._rows + len(rows)

    def check(self) -> Check:
        check = Check("norms")
        if not self._rows:
            check.faults.append("No row is valid.")
            return check
        place = int(np.searchsorted(np.cumsum(self._counts), (self._rows + 1) // 2))
        median = min(max(float(np.int32((place << 12) + (1 << 11)).view(np.float32)), self._least), self._most)
        mean_square = self._squares / self._rows
        variance = max(0.0, mean_square - float(((self._sum / self._rows) ** 2).sum()))
        spread = math.sqrt(variance / mean_square) if mean_square else 0.0
        check.found = f"min {self._least:.4g}, median {median:.4g}, max {self._most:.4g}, spread {spread:.3g}"
        check.metrics["norms"] = {
            "min": float(self._least),
            "median": median,
            "max": float(self._most),
            "spread": spread,
        }
        if self._rows > 1 and spread < COLLAPSED:
            check.warnings.append(
                f"The rows are almost equal (spread {spread:.1g} of their length): a collapsed encoder?"
            )
        return check


def check_ids(reader: FeatureReader) -> Check:
    """Whether an id occurs twice, in one pass over the ids for every million of them."""
    passes, rows = math.ceil(len(reader) / _HASHES), len(reader)
    check, doubled, example = Check("ids", "all are distinct"), 0, ""
    for number in range(passes):
        hashes = [_of_pass(_hashes(reader, block), number, passes) for block in _id_blocks(rows)]
        values, counts = np.unique(np.concatenate(hashes), return_counts=True)
        twice = values[counts > 1]
        if not len(twice):
            continue
        seen: dict[str, int] = {}
        for block in _id_blocks(rows):
            same = np.flatnonzero(np.isin(_hashes(reader, block), twice[:_COMPARED]))
            names = reader.ids(block) if len(same) else []
            for place in same.tolist():
                if names[place] in seen:
                    doubled += 1
                    example = example or f"{names[place]} (rows {seen[names[place]]} and {block.start + place})"
                seen.setdefault(names[place], block.start + place)
    if doubled:
        check.found = ""
        check.warnings.append(
            f"At least {counted(doubled, 'id')} duplicated: {example}. A list may name an image twice."
        )
    return check


def _id_blocks(rows: int) -> Iterable[range]:
    return (range(start, min(start + (1 << 13), rows)) for start in range(0, rows, 1 << 13))


def _hashes(reader: FeatureReader, rows: range) -> NDArray[np.uint64]:
    """64 bits of each id: a sum of its 8-byte words, each times an odd random number."""
    names = reader.file["ids"][rows.start : rows.stop]
    names = np.array(names, dtype="S") if names.dtype.kind == "O" else names
    width = math.ceil(names.dtype.itemsize / 8) * 8
    words = names.astype(f"S{width}").view(np.uint64).reshape(len(names), width // 8)
    factors = np.random.default_rng(0).integers(0, 1 << 63, width // 8, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found: NDArray[np.uint64] = (words * factors).sum(axis=1, dtype=np.uint64)
    return found


def _of_pass(hashes: NDArray[np.uint64], number: int, passes: int) -> NDArray[np.uint64]:
    return hashes[(hashes >> np.uint64(40)) % np.uint64(passes) == np.uint64(number)]
