"""A detector on every image of a test set, the same for every backend: processes share the images, and all get all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.runtime.device import autocast
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.signals import ignore_stop_signals
from tasks.detection.backends.base import Work
from tasks.detection.data.detections import Detections
from tasks.detection.data.images import ImageProblem


def own_rows(images: int, work: Work) -> range:
    """The rows of the test set that this process predicts."""
    return range(work.processes.rank, images, work.processes.world)


def predict_all(images: Dataset, count: int, detections: Callable[[Any], Detections], work: Work) -> list[Detections]:
    """`detections(input)` of each of the set's `count` images, in its order, in every process.

    `images` has this process's `own_rows`: item -> (row, input of the detector, or the reason why it cannot be read).

    Raises:
        DataError: an image cannot be read. Stopped: at a signal, of one process.
    """
    processes, rows = work.processes, own_rows(count, work)
    loader = DataLoader(
        images, batch_size=None, num_workers=worker_count(work.workers), worker_init_fn=ignore_stop_signals
    )
    found: dict[int, Detections | ImageProblem] = {}
    with work.progress("predict", len(rows)) as advance:
        for row, image in loader:
            if work.stop.status and processes.world == 1:
                raise Stopped("Stopped before the evaluation; the same command goes on with it.", work.stop.status)
            if isinstance(image, ImageProblem):
                found[row] = image
                continue
            with autocast(processes.device, work.precision):
                found[row] = detections(image)
            advance(1)
    if processes.world > 1:
        parts: list[dict[int, Detections | ImageProblem]] = [{}] * processes.world
        dist.all_gather_object(parts, found, group=processes.control)
        found = {row: one for part in parts for row, one in part.items()}
    return [_readable(found[row]) for row in range(count)]


def _readable(one: Detections | ImageProblem) -> Detections:
    if isinstance(one, ImageProblem):
        raise DataError(f"The evaluation cannot be completed: {one.reason}. Fix this and rerun the command.")
    return one
