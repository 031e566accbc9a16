"""Images + encoder -> feature file, in order, by blocks of rows that are the same whatever runs them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from simsiam_eval.device import autocast, resolve_device
from simsiam_eval.errors import DataError
from simsiam_eval.feature_file import FeatureWriter, read_attributes
from simsiam_eval.images import UnreadableImage
from simsiam_eval.preprocess import Preprocessing
from simsiam_eval.progress import progress, say
from simsiam_eval.stopping import ignore_stop_signals

if TYPE_CHECKING:
    from simsiam_eval.encoder import Encoder
    from simsiam_eval.settings import FeatureSettings
    from simsiam_eval.sources.base import ImageSource

_NAMED = 5  # unreadable images named on the terminal; all of them are in the file's `errors`


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source, prepared for the encoder but for the normalisation."""

    rows: range
    pixels: torch.Tensor  # (B,3,H,W) uint8, zeros where the image could not be read
    reasons: dict[int, str]  # row -> why it could not be read


class _Blocks:
    """The source cut into blocks of rows, as a map-style data set for DataLoader workers."""

    def __init__(self, source: ImageSource, preprocessing: Preprocessing, starts: Sequence[int], size: int) -> None:
        self.source, self.preprocessing, self.starts, self.size = source, preprocessing, starts, size

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Block:
        start = self.starts[index]
        rows = range(start, min(start + self.size, len(self.source)))
        side = self.preprocessing.crop
        pixels = torch.zeros((len(rows), 3, side, side), dtype=torch.uint8)
        reasons = {}
        for place, row in enumerate(rows):
            try:
                pixels[place] = self.preprocessing.pixels(self.source.image(row))
            except UnreadableImage as error:
                reasons[row] = str(error)
        return Block(rows, pixels, reasons)


def image_blocks(
    source: ImageSource, preprocessing: Preprocessing, starts: Sequence[int], size: int, workers: int, pin_memory: bool
) -> Iterable[Block]:
    """The blocks of `size` rows that begin at `starts`, in that order, decoded by `workers` processes."""
    return DataLoader(
        _Blocks(source, preprocessing, starts, size),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # the worker seeds, of no use here, are not to come from the global one
    )


def worker_count(asked: int | None, source: ImageSource) -> int:
    """DataLoader processes: as asked, else one per core (at most 16), none for images held in memory."""
    if asked is not None:
        return asked
    return 0 if source.in_memory else min(16, len(os.sched_getaffinity(0)))


def file_attributes(
    encoder: dict[str, Any], source: ImageSource, preprocessing: Preprocessing, settings: FeatureSettings
) -> dict[str, Any]:
    """The root attributes of the feature file that an extraction will write: what makes it this one and no other."""
    return {
        "encoder": encoder,
        "preprocessing": preprocessing.to_dict(),
        "source": {
            "spec": source.spec,
            "fingerprint": source.fingerprint(),
            "class_names": list(source.class_names) if source.class_names is not None else None,
        },
        "precision": settings.precision,
    }


def extract_features(
    encoder: Encoder,
    source: ImageSource,
    preprocessing: Preprocessing,
    attributes: dict[str, Any],
    settings: FeatureSettings,
    out: Path,
) -> tuple[int, int]:
    """Write the features of every image of `source` to `out`; goes on with an unfinished file.

    Every block of `extract_batch` rows is one forward pass, an unreadable image a black one in its place, so that a
    file does not depend on where an earlier run was killed, nor on the number of workers.

    Returns:
        how many rows were computed now, and how many images of the source could not be read.

    Raises:
        DataError: the output belongs to something else or cannot be written; with `strict`, an unreadable image.
    """
    if out.exists():
        there = read_attributes(out)
        if any(there[key] != value for key, value in attributes.items()) or there["dtype"] != settings.dtype:
            raise DataError(f"{out} holds features of another encoder, images or settings: choose another --out.")
        say(f"{out} is there already and complete: nothing to do.")
        return 0, there["unreadable"]
    device = resolve_device(settings.device)
    encoder = encoder.to(device).eval()
    ids = [source.id(row) for row in range(len(source))]
    size = settings.extract_batch
    with FeatureWriter(out, ids, source.labels, encoder.width, settings.dtype, attributes) as writer:
        # A block with an unreadable image is read again: its reasons are not in the file yet.
        starts = [start for start in range(0, len(ids), size) if not writer.valid[start : start + size].all()]
        computed = sum(min(size, len(ids) - start) for start in starts)
        if computed < len(ids):
            say(f"{out}: going on, {len(ids) - computed} of {len(ids)} rows are there.")
        errors: list[tuple[int, str, str]] = []
        workers = worker_count(settings.workers, source)
        with progress(f"extract {out.name}", computed) as advance:
            for block in image_blocks(source, preprocessing, starts, size, workers, device.type == "cuda"):
                for row, reason in block.reasons.items():
                    errors.append((row, ids[row], reason))
                    _report(errors, settings.strict)
                with torch.inference_mode(), autocast(device, settings.precision):
                    images = preprocessing.normalise(block.pixels.to(device, non_blocking=True))
                    features = encoder(images).float().cpu().numpy()
                valid = np.array([row not in block.reasons for row in block.rows])
                for place in np.flatnonzero(valid & ~np.isfinite(features).all(axis=1)):
                    row = block.rows[place]
                    errors.append((row, ids[row], "the encoder's features are not finite"))
                    valid[place] = False
                    _report(errors, settings.strict)
                writer.write(block.rows[0], features, valid)
                advance(len(block.rows))
        writer.finish(sorted(errors))
    if errors:
        say(f"{len(errors)} of {len(ids)} images could not be read; they are named in `errors` of {out}.")
    return computed, len(errors)


def _report(errors: list[tuple[int, str, str]], strict: bool) -> None:
    row, name, reason = errors[-1]
    if strict:
        raise DataError(f"Image {name} (row {row}) could not be read: {reason}; without --strict it is skipped.")
    if len(errors) <= _NAMED:
        say(f"skipped {name} (row {row}): {reason}")
