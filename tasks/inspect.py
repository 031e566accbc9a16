"""`inspect`: show what a checkpoint contains, what would be loaded from it, and whether the encoder has collapsed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.encoders.architectures import arch_text
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.pixel_settings import PixelSettings
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    from simsiam_eval.encoders.choice import EncoderChoice
    from simsiam_eval.encoders.recognition.branches import Candidate
    from simsiam_eval.encoders.report import CheckpointReport
    from simsiam_eval.extraction.options import ExtractionOptions

_IMAGES = 8  # number of images whose features --images shows


@dataclass(frozen=True, kw_only=True)
class InspectSettings(CheckpointSettings, PixelSettings):
    """Show what a checkpoint contains: family, architecture, the keys that are loaded, and why others are skipped."""

    GROUPS: ClassVar[dict[str, str]] = {"encoder": "checkpoint", "data": "images"}
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "checkpoint.pth.tar",
        "checkpoint.pth.tar --images photos",
        "checkpoint.pth.tar --branch momentum",
    )

    checkpoint: str = setting(
        positional=True, help="Checkpoint file or folder, timm:NAME, timm:NAME@FILE or hf:FOLDER."
    )
    images: str | None = setting(
        None,
        help=f"Image source; the norms, spread and rank of the features of {_IMAGES} of its images show whether the encoder "
        "has collapsed.",
    )

    def check(self) -> None:
        super().check()
        if self.images is None:
            self.reject_given([field.name for field in fields(PixelSettings)], "requires --images")


def inspect(settings: InspectSettings) -> Result:
    """Run `inspect`.

    Raises:
        DataError: no encoder can be loaded from the file, or no image can be read.
    """
    from simsiam_eval.encoders.checkpoint import inspect_checkpoint
    from simsiam_eval.encoders.recognition.branches import NetworkNotChosen

    started = time.perf_counter()
    choice = settings.encoder_choice(settings.checkpoint)
    try:
        report = inspect_checkpoint(choice).with_normalization(settings.mean, settings.std)
    except NetworkNotChosen as undecided:
        if settings.images is not None:
            raise
        metrics, table = _networks(undecided.networks), _networks_table(settings.checkpoint, undecided)
    else:
        features = None if settings.images is None else _features(choice, settings.extraction(), settings.images)
        metrics, table = report.to_dict() | {"features": features}, _table(report, _feature_rows(features))
    return Result(
        task="inspect",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, checkpoint=settings.checkpoint),
        table=table,
    )


def _features(choice: EncoderChoice, options: ExtractionOptions, images: str) -> dict[str, Any]:
    """Statistics of the features of a few images, evenly spaced in their source."""
    import torch

    from simsiam_eval.encoders.checkpoint import load_encoder
    from simsiam_eval.images.opened import UnreadableImage
    from simsiam_eval.metrics.spread import collapse_std, rankme
    from simsiam_eval.runtime.progress import say
    from simsiam_eval.sources.opening import open_source

    encoder, report = load_encoder(choice)
    source = open_source(images)
    rows = source.spaced_rows(_IMAGES)
    preprocessing = options.preprocessing_on(source, report)
    preprocessing.require_images()
    pixels = {}
    for row in rows:
        try:
            pixels[source.id(row)] = preprocessing.pixels(
                source.opened(row, preprocessing.selection, preprocessing.intensity)
            )
        except UnreadableImage as error:
            say(f"{source.id(row)}: {error}; skipped.")
    if not pixels:
        raise DataError(f"None of {counted(len(rows), 'image')} of {images} could be read; give other --images.")
    with torch.no_grad():
        features = encoder(preprocessing.normalize(torch.stack(list(pixels.values()))))
    return {
        "ids": list(pixels),
        "norms": features.norm(dim=1).tolist(),
        "spread": collapse_std(features) if len(pixels) > 1 else None,
        "rank": rankme(features) if len(pixels) > 1 else None,
    }


def _feature_rows(features: dict[str, Any] | None) -> list[list[str]]:
    if features is None:
        return []
    number = len(features["norms"])
    norms = [f"norms of {counted(number, 'feature')}", ", ".join(f"{norm:.4g}" for norm in features["norms"])]
    if number < 2:
        return [norms, ["spread and rank", "- (need 2 images)"]]
    return [
        norms,
        ["spread", f"{features['spread']:.3f} (0: all the same)"],
        ["rank", f"{features['rank']:.2f} (max rank {number})"],
    ]


def _networks(networks: Sequence[Candidate]) -> dict[str, Any]:
    """Metrics of a file whose encoder was not chosen."""
    return {
        "branch": None,
        "branches": [network.name for network in networks],
        "networks": [network.record for network in networks],
    }


def _networks_table(checkpoint: str, undecided: Any) -> Table:
    records = [network.record for network in undecided.networks]
    rows = [
        [record["branch"], record["family"], arch_text(record["arch"], record["stem"]), str(record["weights"])]
        for record in records
    ]
    return Table(checkpoint, ("--branch", "family", "architecture", "weights"), rows, [str(undecided)])


def _table(report: CheckpointReport, feature_rows: list[list[str]]) -> Table:
    differences = "".join(f", {name} {value}" for name, value in report.variant.items())
    others = [name for name in report.branches if name != report.branch]
    facts = {
        "family": report.family,
        "weights from": report.container,
        "branch": report.branch and f"{report.branch}" + (f" (others: {', '.join(others)})" if others else ""),
        "architecture": arch_text(report.arch, report.stem) + differences,
        "normalization": report.normalization and f"{_numbers(report.normalization)}, from {report.normalization_from}",
        "images": _preprocessing(report),
        "channel order": _channel_order(report),
        "epoch": report.epoch,
        "feature width": report.feature_width,
        "projector": report.projector,
        "predictor": report.predictor,
        "weights sha256": report.weights_sha256,
    }
    rows = [[name, "-" if value is None else str(value)] for name, value in facts.items()]
    loaded = [f"{key} -> {trunk_key}" for key, trunk_key in report.loaded.items()]
    rows.append([f"loaded ({len(loaded)})", _beginning(loaded, 2)])
    keys_by_reason: dict[str, list[str]] = {}
    for key, reason in report.skipped.items():
        keys_by_reason.setdefault(reason, []).append(key)
    for reason, keys in keys_by_reason.items():
        rows.append([f"skipped ({len(keys)})", f"{reason}: {_beginning(keys, 3)}"])
    return Table(report.path, ("", ""), rows + feature_rows, [*report.assumptions, "Use --json to list every key."])


def _preprocessing(report: CheckpointReport) -> str | None:
    stated = (report.metadata or {}).get("preprocessing") or report.preprocessing
    if not isinstance(stated, Mapping) or not {"resize", "crop"} <= stated.keys():
        return None
    crop, interpolation = stated["crop"], stated.get("interpolation", "bilinear")
    if stated.get("squash"):
        return f"resized to {crop} x {crop} pixels ({interpolation})"
    return f"short side resized to {stated['resize']} pixels ({interpolation}), cropped to {crop} x {crop}"


def _channel_order(report: CheckpointReport) -> str | None:
    if report.variant.get("channels", 3) != 3:
        return None
    source = f", from {report.channel_order_from}" if report.channel_order_from else ""
    reversed_ = "; the first convolution is reversed, to take RGB images" if report.channel_order == "bgr" else ""
    return f"{report.channel_order}{source}{reversed_}"


def _numbers(normalization: dict[str, list[float]]) -> str:
    return "; ".join(
        f"{name} {', '.join(f'{value:.4g}' for value in values)}" for name, values in normalization.items()
    )


def _beginning(texts: list[str], limit: int) -> str:
    return ", ".join(texts[:limit]) + ", ..." * (len(texts) > limit)
