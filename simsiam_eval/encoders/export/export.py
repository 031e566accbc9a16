"""Write an encoder for another program, read it back with that program, and compare, before the file gets its name."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from simsiam_eval.encoders.export.comparison import Comparison, Samples, compare
from simsiam_eval.encoders.export.targets import TARGETS
from simsiam_eval.encoders.export.writer import Subject, Writer
from simsiam_eval.encoders.report import weights_sha256
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


def writer_of(target: str, subject: Subject) -> Writer:
    """The writer of a target.

    Raises:
        UsageError: the format cannot express the encoder, or a package is missing.
        DataError: it is unknown how the encoder's images are normalized, which files record.
    """
    subject.preprocessing.require_normalization()
    module, _, name = TARGETS[target].writer.partition(":")
    writer: Writer = getattr(importlib.import_module(module), name)(subject)
    writer.check()
    return writer


def export_encoder(path: Path, target: str, writer: Writer, samples: Samples) -> Export:
    """Write an encoder in the format of another program, and read it back.

    The file is written under a temporary name. It gets its own only if it has every weight, and if the program that it is
    for, where it is installed, computes the encoder's features from it.

    Args:
        path: of the file or folder to write.
        target: a name in TARGETS.
        writer: from `writer_of`.
        samples: images to compare on.

    Raises:
        DataError: the file cannot be written, or does not agree with the encoder.
    """
    metadata = writer.subject.metadata()
    with _new(path, target) as temporary:
        writer.save(temporary, metadata)
        count = verified_weights(writer, writer.weights(temporary), path)
        comparison, expected = None, samples.features(writer.encoder)
        if writer.missing() is None:
            comparison = _agreement(writer, temporary, path, samples, expected)
            # Again with the result in its metadata, and verified again: what gets the name is what was compared.
            _empty(temporary if temporary.is_dir() else temporary.parent)
            writer.save(temporary, metadata | comparison.to_metadata())
            verified_weights(writer, writer.weights(temporary), path)
            _agreement(writer, temporary, path, samples, expected)
    role = "folder" if TARGETS[target].folder else "checkpoint"
    files = {role: path} | {ending[1:]: path.with_suffix(ending) for ending in TARGETS[target].beside}
    notes = list(writer.notes(path))
    if comparison is not None and not expected.any():
        notes.append("All features of these images are zero, so the comparison says nothing; inspect the encoder.")
    if comparison is None:
        notes.append(f"Not compared with {writer.LIBRARY}: {writer.missing()}.")
    return Export(files, count, notes, comparison)


@contextlib.contextmanager
def _new(path: Path, target: str) -> Iterator[Path]:
    """A temporary file or folder that becomes `path`."""
    if TARGETS[target].folder:
        with atomic_folder(path) as folder:
            yield folder
    else:
        with atomic_files(path, *(path.with_suffix(ending) for ending in TARGETS[target].beside)) as folder:
            yield folder / path.name


def verified_weights(writer: Writer, weights: Mapping[str, Tensor] | None, path: Path) -> int | None:
    """The number of weights read back. Raises DataError unless they are the encoder's."""
    if weights is None:
        return None
    if weights_sha256(weights, {}) != weights_sha256(writer.encoder.trunk.state_dict(), {}):
        raise DataError(
            f"{path} was not written: what was read back are not the weights of {writer.subject.report.path}."
        )
    return len(weights)


def _empty(folder: Path) -> None:
    """Remove the files of a folder. Overwriting one whose tensors are memory-mapped would change them."""
    for file in folder.iterdir():
        file.unlink()


def _agreement(writer: Writer, temporary: Path, path: Path, samples: Samples, expected: Tensor) -> Comparison:
    """The comparison. Raises DataError if the difference is above the writer's tolerance."""
    comparison = compare(writer.consumer(), writer.features(temporary, samples), expected)
    if not comparison.relative_difference <= writer.tolerance():
        raise DataError(
            f"{path} was not written: {comparison.consumer} computes other features from it (largest difference "
            f"{comparison.largest_difference:.2g}, relative {comparison.relative_difference:.2g}, tolerance "
            f"{writer.tolerance():g}; smallest cosine {comparison.min_cosine:.6f})."
        )
    return comparison
