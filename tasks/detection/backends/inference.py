"""Run a detector on a test set. The processes share the images, and all of them receive all detections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.runtime.device import autocast
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.signals import ignore_stop_signals
from tasks.detection.backends.base import RunContext
from tasks.detection.data.detections import Detections
from tasks.detection.data.images import ImageProblem


def process_rows(images: int, run: RunContext) -> range:
    """The rows of the test set that this process predicts."""
    return range(run.processes.rank, images, run.processes.world)


def predict_all(images: Dataset, count: int, predict: Callable[[Any], Detections], run: RunContext) -> list[Detections]:
    """The detections of each of the `count` images of the test set, in its order, in every process.

    Args:
        images: the `process_rows` of this process: item -> (row, input of `predict` or an ImageProblem).
        count: number of images in the test set.
        predict: the detector on one image.
        run: for the processes, precision and progress.

    Raises:
        DataError: an image cannot be read. Stopped: by a signal, in a single process.
    """
    processes, rows = run.processes, process_rows(count, run)
    loader = DataLoader(
        images, batch_size=None, num_workers=worker_count(run.workers), worker_init_fn=ignore_stop_signals
    )
    results: dict[int, Detections | ImageProblem] = {}
    with run.progress("predict", len(rows)) as advance:
        for row, image in loader:
            if run.stop.status and processes.world == 1:
                raise Stopped("Stopped before the evaluation. Run the same command to resume.", run.stop.status)
            if isinstance(image, ImageProblem):
                results[row] = image
                continue
            with autocast(processes.device, run.precision):
                results[row] = predict(image)
            advance(1)
    if processes.world > 1:
        parts: list[dict[int, Detections | ImageProblem]] = [{}] * processes.world
        dist.all_gather_object(parts, results, group=processes.control)
        results = {row: result for part in parts for row, result in part.items()}
    return [_detections_or_raise(results[row]) for row in range(count)]


def _detections_or_raise(result: Detections | ImageProblem) -> Detections:
    if isinstance(result, ImageProblem):
        raise DataError(f"The evaluation cannot be completed: {result.reason}. Fix this and rerun the command.")
    return result
