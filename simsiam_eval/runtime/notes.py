"""Messages that are printed once, by the main process."""

from __future__ import annotations

from simsiam_eval.runtime.launch import torchrun_group
from simsiam_eval.runtime.progress import say

_said: set[str] = set()


def say_once(message: str) -> None:
    """Print one line, unless this process has printed it before; under torchrun only in the main process."""
    if message not in _said and (torchrun_group() or (0, 1))[0] == 0:
        _said.add(message)
        say(message)
