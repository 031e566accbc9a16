"""`inspect`: show what a checkpoint contains and what would be loaded from it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import setting
from simsiam_eval.encoders.settings import CheckpointSettings

if TYPE_CHECKING:
    from simsiam_eval.encoders.checkpoint import CheckpointReport


@dataclass(frozen=True, kw_only=True)
class InspectSettings(CheckpointSettings):
    """Show what a checkpoint contains: family, architecture, the keys that are loaded, and why others are skipped."""

    GROUPS: ClassVar[dict[str, str]] = {"encoder": "checkpoint"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("checkpoint.pth.tar",)

    checkpoint: str = setting(positional=True, help="Checkpoint file.")


def inspect(settings: InspectSettings) -> Result:
    """Run `inspect`.

    Raises:
        DataError: no encoder can be loaded from the file.
    """
    from simsiam_eval.encoders.checkpoint import inspect_checkpoint

    started = time.perf_counter()
    report = inspect_checkpoint(settings.encoder_choice(settings.checkpoint))
    return Result(
        task="inspect",
        settings=settings.to_dict(),
        metrics=report.to_dict(),
        provenance=provenance(started, checkpoint=settings.checkpoint),
        table=_table(report),
    )


def _table(report: CheckpointReport) -> Table:
    facts = {
        "family": report.family,
        "weights from": report.container,
        "architecture": report.arch if report.stem is None else f"{report.arch}, {report.stem} stem",
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
    return Table(report.path, ("", ""), rows, ["Use --json to list every key."])


def _beginning(texts: list[str], limit: int) -> str:
    return ", ".join(texts[:limit]) + ", ..." * (len(texts) > limit)
