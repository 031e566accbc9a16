"""What was assumed about an encoder because its checkpoint does not say it: printed, and returned for the record."""

from __future__ import annotations

from collections.abc import Sequence

from simsiam_eval.encoders.report import CheckpointReport
from simsiam_eval.runtime.launch import torchrun_group
from simsiam_eval.runtime.progress import say

_said: set[tuple[str, str]] = set()


def note_assumptions(
    report: CheckpointReport, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> list[str]:
    """The assumptions about an encoder that is used, each printed once in a process, under torchrun only in the main one.

    Args:
        mean, std: of the normalization, where something else than the checkpoint says it.
    """
    assumptions = report.with_normalization(mean, std).assumptions
    is_main = (torchrun_group() or (0, 1))[0] == 0
    for sentence in assumptions:
        if is_main and (report.weights_sha256, sentence) not in _said:
            _said.add((report.weights_sha256, sentence))
            say(f"{report.path}: {sentence}")
    return list(assumptions)
