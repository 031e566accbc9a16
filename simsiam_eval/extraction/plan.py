"""From a checkpoint and an image source to an extraction, and the root attributes of its feature file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.notes import note_assumptions
from simsiam_eval.encoders.report import CheckpointReport
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.blocks import VIEWS
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.options import ExtractionOptions, choice_like, option_hint, options_like, preprocessing_of
from simsiam_eval.features.provenance import reject_images
from simsiam_eval.features.table import ImageTable
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.intensity import report_range
from simsiam_eval.sources.opening import open_source


@dataclass(frozen=True)
class ExtractionPlan:
    """An extraction of which nothing is computed yet.

    Attributes:
        extraction: what is extracted.
        encoder_attributes: root attributes of its feature file that do not depend on the images: encoder, assumptions,
            preprocessing, views, precision and computation.
    """

    extraction: Extraction
    encoder_attributes: dict[str, Any]

    def attributes(self) -> dict[str, Any]:
        """All root attributes. The source's fingerprint reads every image, which only one of several processes needs."""
        return self.encoder_attributes | {"source": source_attributes(self.extraction)}


def plan_extraction(
    choice: EncoderChoice,
    spec: str,
    split: str | None,
    options: ExtractionOptions,
    device: torch.device,
    rows: tuple[int, int] | None = None,
    like: ImageTable | None = None,
) -> ExtractionPlan:
    """Prepare the extraction of an image source's features; nothing is computed yet.

    What is assumed about the encoder is printed.

    Args:
        choice: the encoder.
        spec: image source.
        split: default split, if the spec names none.
        options: what is extracted, and how.
        rows: first row and the one after the last; default: all.
        like: features whose settings, preprocessing and variant of the trunk the new ones get.

    Raises:
        DataError: the checkpoint or the images cannot be used.
        UsageError: `rows` are outside the source.
    """
    recorded = None
    if like is not None:
        recorded, options = preprocessing_of(like.attributes, like.name), options_like(like.attributes, options)
        choice = choice_like(like.attributes, choice, like.name)
    encoder, report = load_encoder(choice, options.layers, options.pooling)
    source = open_source(spec, split, options.no_label)
    selected = None if rows is None else range(len(source))[rows[0] : rows[1]]
    if rows is not None and not selected:
        raise UsageError(f"--rows {rows[0]}:{rows[1]} is outside the {len(source)} rows of {spec}.")
    if recorded is None:
        preprocessing = options.preprocessing_on(source, report)
    else:
        preprocessing = recorded
        report_range(source, recorded.intensity, recorded.selection)
    extraction = Extraction(encoder, source, preprocessing, options, device, selected)
    if like is None:
        assumptions: Sequence[str] | None = note_assumptions(report, options.mean, options.std)
    else:  # what the features were extracted with holds for the new ones
        assumptions = like.attributes.get("assumptions")
    return ExtractionPlan(extraction, encoder_attributes(extraction, report, assumptions))


def encoder_attributes(
    extraction: Extraction, report: CheckpointReport, assumptions: Sequence[str] | None
) -> dict[str, Any]:
    """Root attributes of a feature file that do not depend on the images.

    Args:
        assumptions: about the encoder; None: unknown.
    """
    options = extraction.options
    return {
        "encoder": {
            "arch": report.arch,
            "stem": report.stem,
            "layer": options.layers[0],
            "pooling": extraction.encoder.pooling,
            "flip_average": options.flip_average,
            "normalize": options.normalize,
            "weights_sha256": report.weights_sha256,
            # Left out where they are empty, so that older files compare equal.
            **({"variant": dict(report.variant)} if report.variant else {}),
            **({"branch": report.branch} if report.branch else {}),
            **({"channel_order": report.channel_order} if report.channel_order != "rgb" else {}),
        },
        "assumptions": None if assumptions is None else list(assumptions),
        "preprocessing": extraction.preprocessing.to_dict(),
        "views": VIEWS | {"count": options.views, "seed": options.seed} if options.views else None,
        "precision": options.precision,
        "computation": extraction.computation,
    }


def source_attributes(extraction: Extraction) -> dict[str, Any]:
    """The root attribute `source` of a feature file; reads every image for its fingerprint."""
    options, source = extraction.options, extraction.source
    attributes: dict[str, Any] = {
        "spec": source.spec,
        "fingerprint": source.fingerprint() if options.fingerprint == "content" else source.listing_fingerprint(),
        "class_names": list(source.class_names) if source.class_names is not None else None,
    }
    if len(extraction.rows) < len(source):
        attributes |= {"rows": [extraction.rows.start, extraction.rows.stop], "rows_of": len(source)}
    return attributes


def extraction_like(
    attributes: Mapping[str, Any],
    name: str | Path,
    choice: EncoderChoice,
    source: ImageSource,
    options: ExtractionOptions,
    device: torch.device,
    layers: Sequence[str] | None = None,
    every_column: bool = False,
) -> Extraction:
    """An extraction of the images of `source` in the same way as the features of a file were extracted.

    Args:
        attributes: root attributes of the file: encoder, preprocessing, precision.
        name: of the file, for messages.
        choice: the encoder; the variant of its trunk is that of the file.
        options: settings that do not change features, such as batch and workers.
        layers, every_column: as in `options_like`.

    Raises:
        DataError: the checkpoint is not the encoder of the features, or their preprocessing is not recorded.
        UsageError: an option of the choice contradicts the file.
    """
    reject_images(attributes, str(name))
    options = options_like(attributes, options, layers, every_column)
    encoder, report = load_encoder(choice_like(attributes, choice, name), options.layers, options.pooling)
    expected = attributes["encoder"].get("weights_sha256")
    if report.weights_sha256 != expected:
        recorded = f"{expected[:12]}..." if expected else "none (the encoder is not recorded)"
        raise DataError(
            f"{report.path} is not the encoder of {name}: its weights_sha256 is {report.weights_sha256[:12]}..., "
            f"expected {recorded}{option_hint(attributes, choice)}."
        )
    preprocessing = preprocessing_of(attributes, name)
    report_range(source, preprocessing.intensity, preprocessing.selection)
    return Extraction(encoder, source, preprocessing, options, device)
