"""What was assumed about an encoder because its checkpoint does not say it: printed, and returned for the record."""

from __future__ import annotations

from collections.abc import Sequence

from simsiam_eval.encoders.report import CheckpointReport
from simsiam_eval.runtime.notes import say_once


def note_assumptions(
    report: CheckpointReport, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> list[str]:
    """The assumptions about an encoder that is used, each printed once.

    Args:
        mean, std: of the normalization, where something else than the checkpoint says it.
    """
    assumptions = report.with_normalization(mean, std).assumptions
    for sentence in assumptions:
        say_once(f"{report.path}: {sentence}")
    return list(assumptions)
