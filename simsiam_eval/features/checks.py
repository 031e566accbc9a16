"""Checks of a feature file: datasets, rows and ids, read block by block in constant memory."""

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

# Relative spread below which features do not depend on the image: a collapsed encoder.
COLLAPSED = 1e-3
_MAX_HASHES = 1 << 20  # of ids in memory at a time
_MAX_COMPARED = 1000  # ids with equal hashes that are compared character by character


@dataclass
class Check:
    """One line of the report: what was checked, the result, and a sentence for every error and warning."""

    name: str
    result: str = ""
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


def check_layout(reader: FeatureReader) -> Check:
    """Check that all datasets exist, with the right shapes and data types."""
    file, rows = reader.file, len(reader)
    check = Check("datasets", f"{rows} rows: " + ", ".join([*reader.columns, "labels", "ids", "valid", "errors"]))

    def expect(name: str, matches: bool, expected: str) -> None:
        if not matches:
            check.faults.append(f"The dataset {name} is {file[name].shape} {file[name].dtype}, not {expected}.")

    floats = ("float32", "float16")
    for name in reader.columns:
        dimensions = 3 if name == "views" else 2
        shape_matches = file[name].ndim == dimensions and len(file[name]) == rows and 0 not in file[name].shape
        expected = f"{dimensions}-dimensional float32 or float16 with {rows} rows"
        expect(name, shape_matches and str(file[name].dtype) in floats, expected)
    for name, expected in (("labels", "int64"), ("ids", "UTF-8 text"), ("valid", "bool")):
        if name not in file:
            check.faults.append(f"The dataset {name} is missing.")
            continue
        is_text = h5py.check_string_dtype(file[name].dtype) is not None
        expect(name, file[name].shape == (rows,) and (is_text if name == "ids" else file[name].dtype == expected),
               f"({rows},) {expected}")  # fmt: skip
    expect("errors", file["errors"].ndim == 1 and file["errors"].dtype.names == ("row", "id", "reason"),
           "a table of row, id, reason")  # fmt: skip
    views = reader.attributes["views"] or {}
    if views.get("count", 0) != reader.columns.get("views", (0,))[0]:
        check.faults.append("The attribute views and the dataset views do not match.")
    return check


def check_rows(reader: FeatureReader) -> list[Check]:
    """Check features, validity, errors and labels of every row, and hash all datasets."""
    rows, norms = _RowChecks(reader), _Norms()
    with progress(f"verify {reader.path.name}", len(reader)) as advance:
        for block in reader.blocks():
            rows.add(block)
            norms.add(block)
            advance(len(block.rows))
    hashes = {name: digest.hexdigest() for name, digest in rows.digests.items()}
    return [
        *rows.checks(),
        norms.check(),
        Check("sha256", f"features {hashes['features'][:16]}...", metrics={"sha256": hashes}),
    ]


class _RowChecks:
    """Counts the rows with each kind of error, and keeps the first of them."""

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader
        self._errors_found: dict[tuple[str, str], tuple[int, int]] = {}  # (check, error) -> count, first row
        self.digests = {name: hashlib.sha256() for name in (*reader.columns, "labels", "ids", "valid")}
        error_rows = reader.file["errors"]["row"]
        self._sorted = bool((np.diff(error_rows) > 0).all())
        self._error_entries, self._invalid = len(error_rows), 0
        if self._error_entries and not 0 <= error_rows[0] <= error_rows[-1] < len(reader):
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
            self._note("finite", f"of {name} contain features although their image could not be read", block,
                       ~zero & (valid == 0))  # fmt: skip
        if self._sorted:
            reasons = self._reader.reasons(block.rows)
            listed = np.isin(np.asarray(block.rows), list(reasons))
            self._note("errors", "are invalid and have no entry in `errors`", block, (valid == 0) & ~listed)
            self._note("errors", "are in `errors` although valid", block, (valid != 0) & listed)
            id_differs = [row in reasons and reasons[row][0] != name.replace("\0", "\\0")
                          for row, name in zip(block.rows, block.ids, strict=True)]  # fmt: skip
            self._note("errors", "have another id in `errors`", block, np.array(id_differs))
        names = self._reader.attributes["source"].get("class_names")
        classes = len(names) if names is not None else math.inf
        self._note("labels", f"have a label below -1{'' if names is None else f' or above {len(names) - 1}'}", block,
                   (block.labels < -1) | (block.labels >= classes))  # fmt: skip
        stored = {**block.columns, "labels": block.labels, "valid": valid}
        for name, stored_values in stored.items():
            self.digests[name].update(np.ascontiguousarray(stored_values).data)
        self.digests["ids"].update("".join(f"{name}\0" for name in block.ids).encode())

    def _note(self, check: str, error: str, block: FeatureBlock, wrong: NDArray[np.bool_]) -> None:
        count = int(wrong.sum())
        if count:
            previous, first = self._errors_found.get((check, error), (0, block.rows.start + int(wrong.argmax())))
            self._errors_found[check, error] = (previous + count, first)

    def checks(self) -> Iterable[Check]:
        results = {
            "valid": f"{len(self._reader) - self._invalid} valid, {self._invalid} invalid",
            "finite": "all values" if not any(key[0] == "finite" for key in self._errors_found) else "",
            "errors": f"{self._error_entries} entries for {self._invalid} invalid rows",
            "labels": "in range",
        }
        checks = {name: Check(name, result) for name, result in results.items()}
        for (name, error), (count, first) in self._errors_found.items():
            (image_id,) = self._reader.ids(range(first, first + 1))
            checks[name].faults.append(f"{count} rows {error}; the first is row {first}, {image_id}.")
        if not self._sorted:
            checks["errors"].faults.append("The rows in `errors` are not in ascending order, or outside the file.")
        for check in checks.values():
            if check.faults and check.name in ("finite", "labels"):
                check.result = ""
        return checks.values()


class _Norms:
    """Statistics of the norms of valid rows, and the spread of the rows around their mean."""

    def __init__(self) -> None:
        # Positive float32 values sort like their bits; the first 19 bits are bins 0.05 % wide over the whole range.
        self._counts = np.zeros(1 << 19, dtype=np.int64)
        self._min, self._max, self._squares, self._sum = math.inf, 0.0, 0.0, np.zeros(())
        self._rows = 0

    def add(self, block: FeatureBlock) -> None:
        rows = block.columns["features"][block.valid].astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return
        norms = np.linalg.norm(rows, axis=1)
        self._counts += np.bincount(norms.astype(np.float32).view(np.int32) >> 12, minlength=1 << 19)
        self._min, self._max = min(self._min, norms.min()), max(self._max, norms.max())
        self._squares += float((norms**2).sum())
        self._sum, self._rows = self._sum + rows.sum(axis=0), self._rows + len(rows)

    def check(self) -> Check:
        check = Check("norms")
        if not self._rows:
            check.faults.append("No row is valid.")
            return check
        median_bin = int(np.searchsorted(np.cumsum(self._counts), (self._rows + 1) // 2))
        bin_center = float(np.int32((median_bin << 12) + (1 << 11)).view(np.float32))
        median = min(max(bin_center, self._min), self._max)
        mean_square = self._squares / self._rows
        variance = max(0.0, mean_square - float(((self._sum / self._rows) ** 2).sum()))
        spread = math.sqrt(variance / mean_square) if mean_square else 0.0
        check.result = f"min {self._min:.4g}, median {median:.4g}, max {self._max:.4g}, spread {spread:.3g}"
        check.metrics["norms"] = {
            "min": float(self._min),
            "median": median,
            "max": float(self._max),
            "spread": spread,
        }
        if self._rows > 1 and spread < COLLAPSED:
            check.warnings.append(
                f"The rows are almost equal (relative spread {spread:.1g}): the encoder may have collapsed."
            )
        return check


def check_ids(reader: FeatureReader) -> Check:
    """Check that ids are distinct, in one pass over the ids per million of them."""
    passes, rows = math.ceil(len(reader) / _MAX_HASHES), len(reader)
    check, duplicates, example = Check("ids", "all distinct"), 0, ""
    for number in range(passes):
        hashes = [_of_pass(_hashes(reader, block), number, passes) for block in _id_blocks(rows)]
        values, counts = np.unique(np.concatenate(hashes), return_counts=True)
        repeated = values[counts > 1]
        if not len(repeated):
            continue
        first_row: dict[str, int] = {}
        for block in _id_blocks(rows):
            candidates = np.flatnonzero(np.isin(_hashes(reader, block), repeated[:_MAX_COMPARED]))
            ids = reader.ids(block) if len(candidates) else []
            for index in candidates.tolist():
                image_id, row = ids[index], block.start + index
                if image_id in first_row:
                    duplicates += 1
                    example = example or f"{image_id} (rows {first_row[image_id]} and {row})"
                first_row.setdefault(image_id, row)
    if duplicates:
        check.result = ""
        check.warnings.append(
            f"At least {counted(duplicates, 'id')} duplicated: {example}. The source may list an image twice."
        )
    return check


def _id_blocks(rows: int) -> Iterable[range]:
    return (range(start, min(start + (1 << 13), rows)) for start in range(0, rows, 1 << 13))


def _hashes(reader: FeatureReader, rows: range) -> NDArray[np.uint64]:
    """(B,) 64-bit hashes of ids: the sum of their 8-byte words, each multiplied by a random odd number."""
    names = reader.file["ids"][rows.start : rows.stop]
    names = np.array(names, dtype="S") if names.dtype.kind == "O" else names
    width = math.ceil(names.dtype.itemsize / 8) * 8
    words = names.astype(f"S{width}").view(np.uint64).reshape(len(names), width // 8)
    factors = np.random.default_rng(0).integers(0, 1 << 63, width // 8, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes: NDArray[np.uint64] = (words * factors).sum(axis=1, dtype=np.uint64)
    return hashes


def _of_pass(hashes: NDArray[np.uint64], number: int, passes: int) -> NDArray[np.uint64]:
    return hashes[(hashes >> np.uint64(40)) % np.uint64(passes) == np.uint64(number)]
