"""`inspect`: what a checkpoint is, and what would be taken from it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class InspectSettings(Settings):
    """Say what a checkpoint is: family, architecture, which keys become what, which are left and why."""

    GROUPS: ClassVar[dict[str, str]] = {"encoder": "checkpoint"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("checkpoint.pth.tar",)

    checkpoint: Path = setting(positional=True, help="The checkpoint file.")


def inspect(settings: InspectSettings) -> Result:
    """Run `inspect`.

    Raises:
        DataError: no encoder can be taken from the file; the sentence says why.
    """
    from simsiam_eval.encoders.checkpoint import inspect_checkpoint

    started = time.perf_counter()
    report = inspect_checkpoint(settings.checkpoint)
    facts = {
        "family": report.family,
        "weights from": report.container,
        "architecture": f"{report.arch}, {report.stem} stem",
        "epoch": report.epoch,
        "feature width": report.feature_width,
        "projector": report.projector,
        "predictor": report.predictor,
        "weights sha256": report.weights_sha256,
    }
    rows = [[name, "-" if value is None else str(value)] for name, value in facts.items()]
    rows.append([f"taken ({len(report.taken)})", _pairs(report.taken, " -> ")])
    reasons: dict[str, list[str]] = {}
    for key, why in report.left.items():
        reasons.setdefault(why, []).append(key)
    rows += [[f"left ({len(keys)})", f"{why}: {', '.join(keys[:3])}{', ...' * (len(keys) > 3)}"]
             for why, keys in reasons.items()]  # fmt: skip
    return Result(
        task="inspect",
        settings=settings.to_dict(),
        metrics=report.to_dict(),
        provenance=provenance(started, checkpoint=str(settings.checkpoint)),
        table=Table(str(settings.checkpoint), ("", ""), rows, ["--json lists every key."]),
    )


def _pairs(pairs: dict[str, str], arrow: str) -> str:
    shown = [f"{key}{arrow}{value}" for key, value in list(pairs.items())[:2]]
    return ", ".join(shown) + ", ..." * (len(pairs) > 2)
