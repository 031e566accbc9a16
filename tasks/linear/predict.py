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
from simsiam_eval.commands.settings import DeviceSettings, LabelSettings, PrecisionSettings, setting
from simsiam_eval.commands.unreadable import ReadImages, max_unreadable_setting, unreadable_faults
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted, percent

if TYPE_CHECKING:
    import torch

    from simsiam_eval.encoders.choice import EncoderChoice
    from simsiam_eval.extraction.extraction import Extraction
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.linear.head_file import SavedHead
    from simsiam_eval.sources.base import ImageSource

_EXAMPLES = 10  # predictions in the table
_RECORD_CLASSES, _FREQUENT_CLASSES = 1000, 100  # the record counts all predicted classes up to the first number


@dataclass(frozen=True, kw_only=True)
class PredictSettings(CheckpointSettings, LabelSettings, DeviceSettings, PrecisionSettings):
    """Classify images with an encoder and a head trained by linear-eval (--save-head)."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data max_unreadable strict",
        "encoder": "checkpoint head",
        "output": "out",
        "machine": "extract_batch workers",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--checkpoint checkpoint.pth.tar --head head.safetensors --data folder:photos/new --out classes.csv",
    )

    checkpoint: str = setting(help="Checkpoint of the encoder that the head was trained on.")
    head: Path = setting(help="Head saved by linear-eval (.safetensors).")
    data: str = setting(
        help="Images to classify, such as folder:PATH. If they have labels, their accuracy is reported."
    )
    out: Path | None = setting(
        None, output=True, help="CSV file for the predictions: id, class, probability and, if known, label."
    )
    extract_batch: int | None = setting(None, at_least=1, help="Images per forward pass (default: as for `extract`).")
    workers: int | None = setting(None, at_least=0, help="Number of decoding processes (default: as for `extract`).")
    max_unreadable: float = max_unreadable_setting()
    strict: bool = setting(False, help="Stop at the first unreadable image instead of skipping it.")


@dataclass(frozen=True)
class Prediction:
    """The class of one image. `label` is its true class by name, or None."""

    id: str
    class_name: str
    probability: float
    label: str | None


def predict(settings: PredictSettings) -> Result:
    """Run `predict`; images are prepared like those that the head was trained on.

    Raises:
        DataError: the head belongs to another encoder, or to features of an unknown one; the images cannot be used.
    """
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.linear.head_file import read_head
    from simsiam_eval.runtime.device import resolve_device
    from simsiam_eval.runtime.progress import progress
    from simsiam_eval.sources.opening import open_source

    started = time.perf_counter()
    saved, source = read_head(settings.head), open_source(settings.data, no_label=settings.no_label)
    options = ExtractionOptions(
        precision=settings.precision, batch=settings.extract_batch, workers=settings.workers, strict=settings.strict
    )
    device = resolve_device(settings.device)
    choice = settings.encoder_choice(settings.checkpoint)
    extraction = _extraction(saved, settings.head, choice, source, options, device)
    labels = _label_names(source, saved)
    columns = ["id", "class", "probability", *(["label"] if labels is not None else [])]
    tally = _Tally(frozenset(saved.class_names))
    examples: list[list[str]] = []
    with _csv_writer(settings.out) as write, progress("predict", len(source)) as advance:
        write(columns)
        for prediction in _predictions(extraction, saved, labels):
            label = [] if labels is None else [prediction.label or ""]
            row = [prediction.id, prediction.class_name, f"{prediction.probability:.4f}", *label]
            write(row)
            if len(examples) < _EXAMPLES:
                examples.append(row)
            tally.add(prediction)
            advance(1)
        if not tally.images:
            raise DataError(f"None of the {len(source)} images of {settings.data} could be read.")
    metrics = {"images": tally.images, "unreadable": len(source) - tally.images} | tally.to_dict()
    return Result(
        task="predict",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(
            started, str(device), encoder=saved.encoder, assumptions=saved.assumptions, head=saved.trained
        ),
        files={"predictions": str(settings.out)} if settings.out else {},
        table=Table(
            f"Predictions for {settings.data}", columns, examples, _notes(metrics, len(examples), settings.out)
        ),
        faults=unreadable_faults(
            [ReadImages(settings.data, metrics["unreadable"], len(source))], settings.max_unreadable
        ),
    )


class _Tally:
    """Counts of predictions by class, and of correct ones among the labeled images."""

    def __init__(self, known_classes: frozenset[str]) -> None:
        self._known = known_classes
        self._by_class: Counter[str] = Counter()
        self._labeled = self._correct = self._unknown = 0

    @property
    def images(self) -> int:
        return sum(self._by_class.values())

    def add(self, prediction: Prediction) -> None:
        self._by_class[prediction.class_name] += 1
        if prediction.label is not None:
            self._labeled += 1
            self._correct += prediction.class_name == prediction.label
            self._unknown += prediction.label not in self._known

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record; accuracy only where images are labeled."""
        from simsiam_eval.metrics.intervals import accuracy_metrics

        listed = None if len(self._by_class) <= _RECORD_CLASSES else _FREQUENT_CLASSES
        counts: dict[str, Any] = {"by_class": dict(self._by_class.most_common(listed)), "classes": len(self._by_class)}
        if not self._labeled:
            return counts
        accuracy = accuracy_metrics("top1", self._correct, self._labeled)
        return counts | accuracy | {"labeled": self._labeled, "of_unknown_classes": self._unknown}


def _notes(metrics: dict[str, Any], shown: int, out: Path | None) -> list[str]:
    notes = [f"The first {shown} of {counted(metrics['images'], 'prediction')}{f'; all are in {out}' if out else ''}."]
    if "top1" in metrics:
        accuracy = percent(metrics["top1"], metrics["top1_interval"])
        notes.append(f"Accuracy on {counted(metrics['labeled'], 'labeled image')}: {accuracy} %.")
    if metrics.get("of_unknown_classes"):
        images = counted(metrics["of_unknown_classes"], "labeled image")
        notes.append(f"Counted as errors: {images} of classes that the head was not trained on.")
    return notes


def _extraction(
    saved: SavedHead,
    head_file: Path,
    choice: EncoderChoice,
    source: ImageSource,
    options: ExtractionOptions,
    device: torch.device,
) -> Extraction:
    """The extraction of the features that the head reads.

    Raises:
        DataError: they cannot be computed with this checkpoint or precision.
    """
    from simsiam_eval.extraction.plan import extraction_like

    if saved.encoder.get("weights_sha256") is None or saved.preprocessing is None:
        raise DataError(f"{head_file} was trained on features of an unknown encoder; it cannot classify images.")
    if saved.precision not in (None, options.precision):
        raise DataError(f"{head_file} was trained on {saved.precision} features; use --precision {saved.precision}.")
    layers = (saved.head.layer,)
    extraction = extraction_like(saved.attributes, head_file, choice, source, options, device, layers)
    width = saved.head.weight.shape[1]
    if extraction.encoder.width != width:
        raise DataError(f"{head_file} expects {width} features, but the encoder outputs {extraction.encoder.width}.")
    return extraction


@contextmanager
def _csv_writer(path: Path | None) -> Iterator[Callable[[list[str]], Any]]:
    """A function that writes a row of the CSV file, which appears once all are written; without a path it does nothing."""
    from simsiam_eval.files.atomic import atomic_write

    if path is None:
        yield lambda row: None
        return
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        yield csv.writer(text).writerow
        text.detach()


def _predictions(extraction: Extraction, saved: SavedHead, labels: list[str | None] | None) -> Iterator[Prediction]:
    """The predictions of all images that can be read; unreadable ones are reported, or an error where that is an option."""
    import torch

    from simsiam_eval.runtime.progress import say

    for block in extraction.compute(extraction.starts):
        for row, reason in sorted(block.reasons.items()):
            image = f"{extraction.source.id(row)} (row {row})"
            if extraction.options.strict:
                raise DataError(f"{image} cannot be read: {reason}.")
            say(f"skipped {image}: {reason}")
        scores = saved.head.scores(torch.from_numpy(block.columns["features"]))
        best = torch.softmax(scores, dim=1).max(dim=1)
        for row, probability, index in zip(block.rows, best.values.tolist(), best.indices.tolist(), strict=True):
            if row not in block.reasons:
                label = None if labels is None else labels[row]
                yield Prediction(extraction.source.id(row), saved.class_names[index], probability, label)


def _label_names(source: ImageSource, saved: SavedHead) -> list[str | None] | None:
    """The class of each row by name, None for no label; None where the source has no label of the head's classes."""
    from simsiam_eval.features.class_names import class_name, distinct_names

    names = distinct_names(source.class_names) if source.class_names is not None else None
    classes = [class_name(label, names) or None for label in source.labels.tolist()]
    return classes if set(classes) & set(saved.class_names) else None
