"""What a run says of itself: log.jsonl, TensorBoard events, Weights & Biases, all of the same values."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import partial
from typing import Any

from pretrain.settings import PretrainSettings
from simsiam_eval.errors import UsageError
from simsiam_eval.files.jsonl import JsonLines
from simsiam_eval.files.run_folder import continue_if_unwritable
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
        self._lines = JsonLines(settings.out / "log.jsonl", step)
        self._writers: list[Any] = []
        if settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            events = SummaryWriter(str(settings.out / "tensorboard"), purge_step=step)
            self._writers.append(events)
        self._wandb = _start_wandb(settings) if settings.wandb else None

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Log `values` of `kind` (epoch, health, knn) after `step` steps of the whole run."""
        continue_if_unwritable(partial(self._lines.append, {"kind": kind, "step": step, **values}), say)
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
