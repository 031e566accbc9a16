"""Write an encoder for another program, read it back with that program, and compare, before the file gets its name."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from simsiam_eval.encoders.export.comparison import Comparison, Samples, compare
from simsiam_eval.encoders.export.targets import Target
from simsiam_eval.encoders.export.writer import Conversion, Writer
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_files, atomic_folder


@dataclass(frozen=True)
class Export:
    """An encoder that was written.

    Attributes:
        files: role -> path.
        weights: number of weights that were read back, equal to the encoder's; None if the format has no names for them.
        notes: sentences or lines of code on how to use the file.
        comparison: with the program that the file is for; None if it is not installed.
    """

    files: Mapping[str, Path]
    weights: int | None
    notes: list[str]
    comparison: Comparison | None


def export_encoder(conversion: Conversion, target: Target, samples: Samples) -> Export:
    """Write an encoder in the format of another program, and read it back.

    The file is written under a temporary name. It gets its own only if it has every weight, and if the program that it is
    for, where it is installed, computes the encoder's features from it.

    Args:
        conversion: what to write.
        target: the format.
        samples: images to compare on.

    Raises:
        UsageError: the format cannot express the encoder, or a package without which it cannot be written is missing.
        DataError: it is unknown how the encoder's images are normalized, which files record; or the file cannot be written,
            or does not agree with the encoder.
    """
    conversion.preprocessing.require_normalization()
    writer = _writer(conversion, target)
    writer.check()
    expected, missing = samples.features(writer.encoder), writer.missing()
    comparison = None
    with _new_files(conversion.out, target) as temporary:
        # Twice, the second time with the comparison in its metadata: what gets the name is what was compared.
        for _ in range(1 if missing else 2):
            _empty(temporary if target.folder else temporary.parent)
            writer.save(temporary, writer.metadata() | (comparison.to_metadata() if comparison else {}))
            count = _count_weights(writer, temporary)
            comparison = None if missing else _compared(writer, temporary, samples, expected)
    files = {"folder" if target.folder else "checkpoint": conversion.out}
    notes = writer.notes()
    if missing:
        notes.append(f"Not compared with {writer.LIBRARY}: {missing}.")
    elif not expected.any():
        notes.append("All features of these images are zero, so the comparison says nothing; inspect the encoder.")
    return Export(files | target.beside(conversion.out), count, notes, comparison)


def _writer(conversion: Conversion, target: Target) -> Writer:
    module, _, name = target.writer.partition(":")
    writer: Writer = getattr(importlib.import_module(module), name)(conversion)
    return writer


@contextlib.contextmanager
def _new_files(path: Path, target: Target) -> Iterator[Path]:
    """A temporary folder that becomes `path`; or a path in one, whose files get the names of `path` and those beside it."""
    if target.folder:
        with atomic_folder(path) as folder:
            yield folder
    else:
        with atomic_files(path, *target.beside(path).values()) as folder:
            yield folder / path.name


def _empty(folder: Path) -> None:
    """Remove the files of a folder. Overwriting one whose tensors are memory-mapped would change them."""
    for file in folder.iterdir():
        file.unlink()


def _count_weights(writer: Writer, temporary: Path) -> int | None:
    """The number of weights read back. Raises DataError unless they are the encoder's."""
    weights = writer.weights(temporary)
    if weights is None:
        return None
    expected = writer.encoder.trunk.state_dict()
    if weights.keys() != expected.keys() or not all(torch.equal(weights[key], expected[key]) for key in expected):
        conversion = writer.conversion
        raise DataError(
            f"{conversion.out} was not written: what was read back are not the weights of {conversion.report.path}."
        )
    return len(weights)


def _compared(writer: Writer, temporary: Path, samples: Samples, expected: Tensor) -> Comparison:
    """The comparison. Raises DataError if the difference is above the writer's tolerance."""
    comparison = compare(writer.consumer(), writer.features(temporary, samples), expected)
    if not comparison.relative_difference <= writer.tolerance():
        raise DataError(
            f"{writer.conversion.out} was not written: {comparison.consumer} computes other features from it (largest "
            f"difference {comparison.largest_difference:.2g}, relative {comparison.relative_difference:.2g}, tolerance "
            f"{writer.tolerance():g}; smallest cosine {comparison.min_cosine:.6f})."
        )
    return comparison
