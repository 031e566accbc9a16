"""Extraction on a Ray cluster (extra `ray`): Ray places the workers, restarts lost ones and reassigns their blocks.

The machines of the cluster need this package and the images under the same paths. Features are sent back to this process,
which writes the file, so the machines need no shared place to write to.
"""

from __future__ import annotations

import math
import os
import socket
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.extraction import BlockFeatures, Extraction
from simsiam_eval.extraction.to_file import Engine

_TASKS_PER_WORKER = 2  # submitted at a time: one is computed, one waits
_TASK_IMAGES = 512  # approximate size of a task; its blocks are read and computed as one stream
_MAX_RETRIES = 5  # of a task whose process or machine was lost


def ray_engine(address: str | None, workers: int) -> Engine:
    """An engine that computes blocks on a Ray cluster.

    Args:
        address: of the cluster; None: $RAY_ADDRESS, else a new cluster on this machine.
        workers: number of Ray workers, each with a copy of the encoder.

    Raises:
        UsageError: Ray is not installed.
        DataError: there is no cluster at that address.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError('--engine ray requires Ray: pip install "simsiam-eval[ray]".') from error

    def compute(extraction: Extraction, starts: NDArray[np.int64]) -> Generator[BlockFeatures]:
        connects = not ray.is_initialized()
        if connects:
            _connect(ray, address)
        gpus = 1.0 if extraction.device.type == "cuda" else 0.0
        if gpus and connects and not (address or os.environ.get("RAY_ADDRESS")):  # a local cluster: share its GPUs
            gpus = gpu_share(workers, torch.cuda.device_count())
        try:
            yield from _compute_on_cluster(ray, extraction, starts, workers, gpus)
        finally:
            if connects:
                ray.shutdown()

    return compute


def gpu_share(workers: int, gpus: int) -> float:
    """The fraction of a GPU to request per worker so that all workers can be placed; a share cannot span two GPUs.

    >>> gpu_share(2, 2), gpu_share(3, 2), gpu_share(3, 1)
    (1.0, 0.5, 0.3333)
    """
    return math.floor(1e4 / math.ceil(workers / gpus)) / 1e4


def _connect(ray: Any, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").partition(":")
    if port.isdigit():  # Ray itself would retry for ten minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise DataError(f"No Ray cluster at {address}: {error.strerror or error}.") from error
    local = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    local["_node_ip_address"] = "127.0.0.1"  # the machine's own address may not be reachable
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level="error")
        else:
            # Without "local", Ray looks for a running cluster, and waits minutes for one that is gone.
            ray.init("local", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(f"No Ray cluster at {address or 'this machine'}: {error}.") from error


def _compute_on_cluster(
    ray: Any, extraction: Extraction, starts: NDArray[np.int64], workers: int, gpus: float
) -> Generator[BlockFeatures]:
    """Yield blocks in order; the number of submitted tasks is limited, so that features do not pile up in memory."""
    actor_class = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=_MAX_RETRIES)(_Worker)
    shared_extraction = ray.put(extraction)
    actors = [actor_class.remote(torch.get_num_threads()) for _ in range(workers)]
    step = max(1, _TASK_IMAGES // extraction.batch)
    tasks = iter([starts[first : first + step] for first in range(0, len(starts), step)])
    submitted: deque[tuple[Any, Any]] = deque()
    for actor in actors * _TASKS_PER_WORKER:
        _submit_next(actor, shared_extraction, tasks, submitted)
    while submitted:
        actor, result = submitted.popleft()
        try:
            blocks = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            raise (
                error.cause if isinstance(error.cause, DataError) else DataError(f"A Ray task failed: {error}.")
            ) from error
        except ray.exceptions.RayError as error:
            raise DataError(f"Ray could not restart a lost worker ({error}): rerun the command to resume.") from error
        _submit_next(actor, shared_extraction, tasks, submitted)
        yield from blocks


def _submit_next(
    actor: Any, shared_extraction: Any, tasks: Iterator[NDArray[np.int64]], submitted: deque[tuple[Any, Any]]
) -> None:
    starts = next(tasks, None)
    if starts is not None:
        submitted.append((actor, actor.compute.remote([shared_extraction], starts)))


class _Worker:
    """A process of the cluster, which keeps the encoder between tasks."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._extraction: Extraction | None = None

    def compute(self, shared_extraction: list[Any], starts: NDArray[np.int64]) -> list[BlockFeatures]:
        """The blocks that begin at `starts`.

        The reference to the extraction comes in a list, because Ray would fetch a bare one with every task.
        """
        import ray

        extraction = self._extraction = self._extraction or ray.get(shared_extraction[0])
        return list(extraction.compute(starts))
