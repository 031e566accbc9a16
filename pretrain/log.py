"""What a run says of itself: log.jsonl, TensorBoard events, Weights & Biases, all of the same values."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pretrain.settings import PretrainSettings
from simsiam_eval.errors import UsageError
from simsiam_eval.files.atomic import atomic_write, cannot_write
from simsiam_eval.runtime.progress import say


class RunLog:
    """One line of log.jsonl for each `write`, the same numbers to the other writers.

    Args:
        settings: where and to whom to log.
        step: where the run starts or goes on: what an earlier process wrote of later steps is dropped.

    Raises:
        UsageError: --wandb without its package.
        DataError: the log cannot be written.
    """

    def __init__(self, settings: PretrainSettings, step: int) -> None:
        self._path = settings.out / "log.jsonl"
        self._writers: list[Any] = []
        self._torn = ""  # what ends a line that a full disk cut off
        kept = _lines_before(self._path, step)
        with atomic_write(self._path) as file:
            file.writelines(kept)
        if settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            events = SummaryWriter(str(settings.out / "tensorboard"), purge_step=step)
            self._writers.append(events)
        self._wandb = _start_wandb(settings) if settings.wandb else None

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Log `values` of `kind` (epoch, health, knn) after `step` steps of the whole run."""
        try:
            with self._path.open("a") as log:
                log.write(self._torn + json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._torn = ""
        except OSError as error:  # a full disk: the run is worth more than its log
            self._torn = "\n"
            say(f"Warning: {cannot_write(self._path, error)}; the run goes on")
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        try:
            for writer in self._writers:
                for name, value in numbers.items():
                    writer.add_scalar(name, value, step)
        except OSError as error:
            say(f"Warning: TensorBoard's events cannot be written ({error.strerror or error}), and end here")
            self._writers.clear()
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Write out what is buffered."""
        with suppress(OSError):  # the last events; the checkpoint is whole
            for writer in self._writers:
                writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def _lines_before(path: Path, step: int) -> list[bytes]:
    """Whole lines of a log up to `step`; a kill can have torn the last, and a resumed run writes later ones again."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _start_wandb(settings: PretrainSettings) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UsageError('--wandb needs its package: pip install "simsiam-eval[wandb]".') from error
    folder = settings.out.resolve()
    # The same run when it goes on, and another than that of a folder of the same name elsewhere.
    run = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    return wandb.init(
        project=settings.wandb, name=folder.name, dir=settings.out, id=run, resume="allow", config=settings.to_dict()
    )
