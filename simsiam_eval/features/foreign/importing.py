"""Write features that were found in foreign files to a feature file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import differences, part_of, read_attributes
from simsiam_eval.features.foreign.found import ForeignFeatures
from simsiam_eval.features.part_file import remove_sidecars
from simsiam_eval.features.provenance import imported_encoder
from simsiam_eval.features.writer import FeatureWriter
from simsiam_eval.runtime.progress import progress, say
from simsiam_eval.vocabulary import UNKNOWN_PRECISION

_HASHED_BYTES = 1 << 22  # of a file at once
_NAMED_ROWS = 5  # invalid rows that are named


def import_attributes(foreign: ForeignFeatures, inputs: Sequence[Path], encoder: str | None) -> dict[str, Any]:
    """Root attributes of the feature file; reads all files for their sha256.

    Args:
        inputs: as they were given.
        encoder: what the user calls the encoder; None: unknown.
    """
    digest = _sha256(foreign.files)
    rows = hashlib.sha256(digest.encode())
    rows.update(foreign.labels.tobytes())
    foreign.ids.feed(rows.update)
    fingerprint = f"import {rows.hexdigest()}"
    return {
        "encoder": imported_encoder(encoder, fingerprint),
        "preprocessing": {},
        "source": {
            "spec": None,
            "imported_from": [str(path) for path in inputs],
            "sha256": digest,
            "fingerprint": fingerprint,
            "class_names": foreign.class_names,
            "row_numbers_as_ids": not foreign.own_ids,
        },
        "precision": UNKNOWN_PRECISION,
    }


def _sha256(files: Sequence[Path]) -> str:
    """Of one file as `sha256sum` prints it; of several, of their hashes."""
    hashes = []
    with progress("sha256", sum(path.stat().st_size for path in files) >> 20) as advance:
        for path in files:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while data := file.read(_HASHED_BYTES):
                    digest.update(data)
                    advance(len(data) >> 20)
            hashes.append(digest.hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_import(foreign: ForeignFeatures, attributes: Mapping[str, Any], out: Path) -> tuple[int, list[str]]:
    """Write the feature file in blocks; an unfinished one is resumed, and a complete one of the same content is kept.

    Returns:
        The number of invalid rows, and a phrase for each of the first few.

    Raises:
        DataError: `out` has other content or cannot be written, a file is damaged, or no row is valid.
    """
    if out.exists():
        return _existing(out, foreign, attributes), []
    invalid: list[str] = []
    try:
        with FeatureWriter(out, foreign, {"features": (foreign.width,)}, foreign.dtype, attributes) as writer:
            start = 0
            with progress(f"import {out.name}", len(foreign)) as advance:
                for values in _rows(foreign):
                    rows = range(start, start + len(values))
                    if not writer.is_written(rows):
                        reasons = _reasons(values, foreign, rows)
                        invalid += [_named(foreign, row, why) for row, (_, why) in reasons.items()]
                        del invalid[_NAMED_ROWS:]
                        writer.write(start, {"features": values}, reasons)
                    start = rows.stop
                    advance(len(values))
            writer.sync()
            if writer.unreadable() == len(foreign):
                raise _UnusableInput(f"No row of {foreign.origins['features']} is valid; the first: {invalid[0]}.")
            return writer.finish(), invalid
    except _UnusableInput:
        # The same command would fail again, so no row is kept; of any other failure the rows are.
        part_of(out).unlink(missing_ok=True)
        remove_sidecars(out)
        raise


def _named(foreign: ForeignFeatures, row: int, why: str) -> str:
    return f"row {row} ({foreign.ids[row]}): {why}" if foreign.own_ids else f"row {row}: {why}"


class _UnusableInput(DataError):
    """The features cannot be read, or none is valid."""


def _rows(foreign: ForeignFeatures) -> Iterator[NDArray[np.floating]]:
    """Blocks (B,D) of the dtype of the file, infinite where a number is too large for it.

    Raises:
        _UnusableInput: the file is damaged, or does not have the rows that it announces.
    """
    rows = 0
    try:
        for block in foreign.matrix.blocks():
            rows += len(block)
            if rows > len(foreign):
                break
            with np.errstate(over="ignore"):
                yield block.reshape(len(block), foreign.width).astype(foreign.dtype, copy=False)
    except DataError as error:
        raise _UnusableInput(str(error)) from error
    if rows != len(foreign):
        raise _UnusableInput(f"{foreign.origins['features']} has other rows than announced; was it written meanwhile?")


def _reasons(values: NDArray[np.floating], foreign: ForeignFeatures, rows: range) -> dict[int, tuple[str, str]]:
    """row -> (id, why it is invalid)."""
    reasons = {}
    finite = np.isfinite(values).all(axis=1)
    zero = ~np.asarray(values.any(axis=1))
    for index in np.flatnonzero(~finite | zero).tolist():
        why = "all features are 0" if zero[index] else "the features are not finite"
        reasons[rows.start + index] = (foreign.ids[rows.start + index], why)
    return reasons


def _existing(out: Path, foreign: ForeignFeatures, attributes: Mapping[str, Any]) -> int:
    """The number of invalid rows of a complete file. Raises DataError if its content is another."""
    existing = read_attributes(out)
    moved = {"source": {**attributes["source"], "imported_from": existing["source"].get("imported_from")}}
    expected = {**attributes, **moved, "dtype": foreign.dtype, "columns": {"features": (foreign.width,)}}
    if differing := differences(existing, expected):
        raise DataError(
            f"{out} already exists with different content ({', '.join(differing)}): delete it or choose another --out."
        )
    remove_sidecars(out)
    say(f"{out} already exists and is complete; nothing to do.")
    return int(existing["unreadable"])
