"""`predict`: classify images with an encoder and the head that `linear-eval` trained on its features."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, setting
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted, percent

if TYPE_CHECKING:
    from simsiam_eval.extraction.extraction import Extraction
    from simsiam_eval.linear.head_file import SavedHead
    from simsiam_eval.sources.base import ImageSource

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class PredictSettings(DeviceSettings, PrecisionSettings):
    """Classify images with an encoder and a trained head (linear-eval --save-head)."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data strict",
        "encoder": "checkpoint head",
        "output": "out",
        "machine": "extract_batch workers",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--checkpoint checkpoint.pth.tar --head head.safetensors --data folder:photos/new --out classes.csv",
    )

    checkpoint: Path = setting(help="Encoder, the one whose features the head was trained on.")
    head: Path = setting(help="Head (.safetensors) that linear-eval wrote.")
    data: str = setting(
        help="Image source, such as folder:PATH; labels are not needed, and are compared with if there."
    )
    out: Path | None = setting(
        None, output=True, help="CSV file to write: id, class, probability, and the label where there is one."
    )
    extract_batch: int | None = setting(None, at_least=1, help="Images per forward pass; default: as in `extract`.")
    workers: int | None = setting(None, at_least=0, help="Decoding processes; default: as in `extract`.")
    strict: bool = setting(False, help="Stop at the first unreadable image instead of skipping it by name.")


def predict(settings: PredictSettings) -> Result:
    """Run `predict`: images are prepared as those were that the head was trained on.

    Raises:
        DataError: the head belongs to another encoder, or to features of unknown images; the images cannot be used.
    """
    from simsiam_eval.linear.head_file import read_head
    from simsiam_eval.metrics.intervals import accuracy_metrics
    from simsiam_eval.runtime.progress import progress

    started = time.perf_counter()
    settings.try_outputs()
    saved = read_head(settings.head)
    work = _work(settings, saved)
    source = work.source
    truth = _classes_of(source, saved)
    columns = ["id", "class", "probability", *(["label"] if truth is not None else [])]
    counts: Counter[str] = Counter()
    shown: list[list[str]] = []
    right = judged = unknown = 0
    with _csv_file(settings.out) as write, progress("predict", len(source)) as advance:
        write(columns)
        for line in _lines(work, saved, truth, settings.strict):
            write(line)
            shown += [line] if len(shown) < _SHOWN else []
            counts[line[1]] += 1
            if line[3:] not in ([], [""]):
                judged += 1
                right += line[1] == line[3]
                unknown += line[3] not in saved.class_names
            advance(1)
        done = sum(counts.values())
        if not done:
            raise DataError(f"None of the {len(source)} images of {settings.data} could be read.")
    metrics: dict[str, Any] = {"images": done, "unreadable": len(source) - done, "by_class": dict(counts.most_common())}
    if judged:
        metrics |= accuracy_metrics("top1", right, judged) | {"labeled": judged, "of_unknown_classes": unknown}
    notes = [f"The first {len(shown)} of {done} images{'; all are in ' + str(settings.out) if settings.out else ''}."]
    if judged:
        notes.append(f"Of {judged} labeled images {percent(metrics['top1'], metrics['top1_interval'])} % are right.")
    if unknown:
        notes.append(
            f"{counted(unknown, 'image')} among them of classes that the head does not know: none can be right."
        )
    return Result(
        task="predict",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, str(work.device), encoder=saved.encoder, head=saved.trained),
        files={"predictions": str(settings.out)} if settings.out else {},
        table=Table(
            f"Classes of {settings.data}",
            columns,
            shown,
            notes,
        ),
    )


def _work(settings: PredictSettings, saved: SavedHead) -> Extraction:
    """The extraction of the features that the head reads."""
    from simsiam_eval.extraction.plan import ExtractionOptions, extraction_like
    from simsiam_eval.runtime.device import resolve_device
    from simsiam_eval.sources.opening import open_source

    if saved.encoder.get("weights_sha256") is None or saved.preprocessing is None:
        raise DataError(f"{settings.head} was trained on features of no known encoder: it cannot classify images.")
    if saved.precision not in (None, settings.precision):
        raise DataError(
            f"{settings.head} was trained on features in {saved.precision}: give --precision {saved.precision}."
        )
    options = ExtractionOptions(
        precision=settings.precision, batch=settings.extract_batch, workers=settings.workers, strict=settings.strict
    )
    source, device = open_source(settings.data), resolve_device(settings.device)
    layers = (saved.head.layer,)
    work = extraction_like(saved.attributes, settings.head, settings.checkpoint, source, options, device, layers)
    if work.encoder.width != saved.head.weight.shape[1]:
        raise DataError(
            f"{settings.head} reads {saved.head.weight.shape[1]} features, and the encoder gives {work.encoder.width}."
        )
    return work


@contextmanager
def _csv_file(path: Path | None) -> Iterator[Callable[[list[str]], Any]]:
    """What writes a line of the CSV file, which is there once all are written; nothing where there is no path."""
    from simsiam_eval.files.atomic import atomic_write

    if path is None:
        yield lambda line: None
        return
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        yield csv.writer(text).writerow
        text.detach()


def _lines(work: Extraction, saved: SavedHead, truth: list[str | None] | None, strict: bool) -> Iterator[list[str]]:
    """Id, class, probability and, where there is any, label of every image that can be read."""
    import torch

    from simsiam_eval.runtime.progress import say

    for block in work.compute(work.starts):
        for row, reason in sorted(block.reasons.items()):
            if strict:
                raise DataError(f"Image {work.source.id(row)} (row {row}) could not be read: {reason}.")
            say(f"skipped {work.source.id(row)} (row {row}): {reason}")
        scores = saved.head.scores(torch.from_numpy(block.columns["features"]))
        best = torch.softmax(scores, dim=1).max(dim=1)
        for row, chance, guess in zip(block.rows, best.values.tolist(), best.indices.tolist(), strict=True):
            if row not in block.reasons:
                label = [] if truth is None else [truth[row] or ""]
                yield [work.source.id(row), saved.class_names[guess], f"{chance:.4f}", *label]


def _classes_of(source: ImageSource, saved: SavedHead) -> list[str | None] | None:
    """Each row's class by name, None for no label; None where the source has none, or names none of the head's classes."""
    from simsiam_eval.features.class_names import class_name, distinct_names

    names = distinct_names(source.class_names) if source.class_names is not None else None
    classes = [class_name(label, names) or None for label in source.labels.tolist()]
    return classes if set(classes) & set(saved.class_names) else None
