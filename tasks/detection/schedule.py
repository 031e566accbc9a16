"""The fine-tuning schedule: warm-up, steps, and the linear scaling rule for other batch sizes (Goyal et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simsiam_eval.linear.schedule import multistep_lr, scaled_lr, warmup_lr

WARMUP_FACTOR = 0.001  # of the learning rate, at the first iteration


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum and weight decay (none on normalization layers), a linear warm-up, and lr x 0.1 at each step.

    Attributes:
        batch: images per iteration, of all processes together.
        lr: learning rate after the warm-up.
        iterations: length of the training.
        steps: iterations at which the learning rate is multiplied by 0.1.
        warmup: iterations of linear warm-up.
    """

    batch: int
    lr: float
    iterations: int
    steps: tuple[int, ...]
    warmup: int
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def rescaled(
        self,
        batch: int,
        *,
        lr: float | None = None,
        iterations: int | None = None,
        steps: tuple[int, ...] | None = None,
        warmup: int | None = None,
    ) -> Schedule:
        """This schedule for another batch size; what is given replaces the result of the linear scaling rule.

        Steps and warm-up follow the number of iterations.

        >>> Schedule(16, 0.02, 24000, (18000, 22000), 100).rescaled(8)
        Schedule(batch=8, lr=0.01, iterations=48000, steps=(36000, 44000), warmup=200, momentum=0.9, weight_decay=0.0001)
        """
        total = iterations or max(1, round(self.iterations * self.batch / batch))
        stretch = total / self.iterations
        return replace(
            self,
            batch=batch,
            lr=lr or scaled_lr(self.lr, batch, per=self.batch),
            iterations=total,
            steps=steps or tuple(round(step * stretch) for step in self.steps),
            warmup=round(self.warmup * stretch) if warmup is None else warmup,
        )

    def lr_at(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0.

        >>> schedule = Schedule(16, 0.02, 100, (60, 80), 10)
        >>> [round(schedule.lr_at(iteration), 6) for iteration in (0, 5, 10, 60, 80)]
        [2e-05, 0.01001, 0.02, 0.002, 0.0002]
        """
        lr = multistep_lr(self.lr, iteration, self.steps)
        return lr if iteration >= self.warmup else warmup_lr(lr, iteration / self.warmup, WARMUP_FACTOR)

    def sentence(self, processes: int = 1) -> str:
        """The schedule for the terminal."""
        share = f" ({self.batch // processes} on each of {processes} processes)" if processes > 1 else ""
        steps = f", x0.1 at {' and '.join(map(str, self.steps))}" if self.steps else ""
        return (
            f"Schedule: {self.iterations} iterations, batch {self.batch}{share}, lr {self.lr:g} after {self.warmup} "
            f"iterations of warm-up{steps}."
        )
