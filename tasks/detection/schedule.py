"""The schedule of fine-tuning: the preset's, rescaled to another batch by the linear rule (Goyal et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from simsiam_eval.linear.schedule import multistep_lr, scaled_lr, warmup_lr
from tasks.detection.settings import SCHEDULES, DetectSettings, schedule_name

WARMUP_FACTOR = 0.001  # of the learning rate, at the first step


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum .9, weight decay 1e-4 (none for normalization), linear warm-up, tenths at the steps."""

    batch: int
    lr: float
    iterations: int
    steps: tuple[int, ...]
    warmup: int
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def lr_at(self, iteration: int) -> float:
        """Learning rate of a step, counted from 0.

        >>> schedule = Schedule(16, 0.02, 100, (60, 80), 10)
        >>> [round(schedule.lr_at(step), 6) for step in (0, 5, 10, 60, 80)]
        [2e-05, 0.01001, 0.02, 0.002, 0.0002]
        """
        lr = multistep_lr(self.lr, iteration, self.steps)
        return lr if iteration >= self.warmup else warmup_lr(lr, iteration / self.warmup, WARMUP_FACTOR)

    def sentence(self, processes: int = 1) -> str:
        """What is run, for the person at the terminal."""
        falls = " and ".join(map(str, self.steps)) or "nowhere"
        parts = f" ({self.batch // processes} in each of {processes} processes)" if processes > 1 else ""
        return (
            f"Schedule: {self.iterations} steps of {self.batch} images{parts}, lr {self.lr:g} after {self.warmup} of "
            f"warm-up, a tenth at {falls}."
        )


def schedule_of(settings: DetectSettings) -> Schedule:
    """The preset's schedule for --batch, with what is given in its place; steps and warm-up follow --iterations.

    >>> from pathlib import Path
    >>> asked = dict(train=("a",), test="a", out=Path("a"), init=("random",), preset="voc0712")
    >>> schedule_of(DetectSettings(**asked, batch=8))
    Schedule(batch=8, lr=0.01, iterations=48000, steps=(36000, 44000), warmup=200, momentum=0.9, weight_decay=0.0001)
    """
    batch, lr, iterations, steps, warmup = SCHEDULES[schedule_name(settings.preset)]
    total = settings.iterations or max(1, round(iterations * batch / settings.batch))
    stretch = total / iterations
    return Schedule(
        batch=settings.batch,
        lr=settings.lr or scaled_lr(lr, settings.batch, per=batch),
        iterations=total,
        steps=settings.steps or tuple(round(step * stretch) for step in steps),
        warmup=round(warmup * stretch) if settings.warmup is None else settings.warmup,
    )
