"""Notes on standard error about what was assumed of an encoder."""

from __future__ import annotations

from simsiam_eval.encoders.report import CheckpointReport
from simsiam_eval.runtime.launch import torchrun_group
from simsiam_eval.runtime.progress import say

_said: set[tuple[str, str]] = set()


def note_assumptions(report: CheckpointReport) -> None:
    """Print each assumption about an encoder, once in a process, and under torchrun only in the main one."""
    if (torchrun_group() or (0, 1))[0] != 0:
        return
    for sentence in report.assumptions:
        if (report.weights_sha256, sentence) not in _said:
            _said.add((report.weights_sha256, sentence))
            say(f"{report.path}: {sentence}")
