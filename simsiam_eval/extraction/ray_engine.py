"""Extraction on a Ray cluster (extra `ray`): Ray places the work, restarts lost processes and gives their blocks out anew.

The cluster's machines need this package and the images under the same paths; features come back to this process, which
writes the file, so that they need no place to write to.
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

_AHEAD = 2  # tasks given to a worker at a time: one that it works on, one that waits
_TASK_IMAGES = 512  # about: blocks of a task are read and computed as one stream
_RETRIES = 5  # of a task whose process or machine was lost


def ray_engine(address: str | None, workers: int) -> Engine:
    """What computes blocks on the cluster at `address`: None is that of $RAY_ADDRESS, else one made on this machine.

    Raises:
        UsageError: Ray is not installed.
        DataError: there is no cluster at that address.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError('--engine ray needs its package: pip install "simsiam-eval[ray]".') from error

    def compute(work: Extraction, starts: NDArray[np.int64]) -> Generator[BlockFeatures]:
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, address)
        gpus = 1.0 if work.device.type == "cuda" else 0.0
        if gpus and ours and not (address or os.environ.get("RAY_ADDRESS")):  # no GPU will join: the workers share
            gpus = gpu_share(workers, torch.cuda.device_count())
        try:
            yield from _computed(ray, work, starts, workers, gpus)
        finally:
            if ours:
                ray.shutdown()

    return compute


def gpu_share(workers: int, gpus: int) -> float:
    """How much of a GPU each worker may ask for, so that all of them find room: a share lies on one GPU.

    >>> gpu_share(2, 2), gpu_share(3, 2), gpu_share(3, 1)
    (1.0, 0.5, 0.3333)
    """
    return math.floor(1e4 / math.ceil(workers / gpus)) / 1e4


def _connect(ray: Any, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").partition(":")
    if port.isdigit():  # ray itself tries for ten minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise DataError(f"No Ray cluster at {address}: {error.strerror or error}.") from error
    quiet = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    quiet["_node_ip_address"] = "127.0.0.1"  # of a cluster on this machine: its own name may not be reachable
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level="error")
        else:
            # "local": without it Ray looks for a cluster of this machine, and waits minutes for one that is gone.
            ray.init("local", **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(f"No Ray cluster at {address or 'this machine'}: {error}.") from error


def _computed(
    ray: Any, work: Extraction, starts: NDArray[np.int64], workers: int, gpus: float
) -> Generator[BlockFeatures]:
    """Blocks in order; at most `_AHEAD` tasks for each worker are under way, so that features do not pile up."""
    actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=_RETRIES)(_Worker)
    shared = ray.put(work)
    crew = [actor.remote(torch.get_num_threads()) for _ in range(workers)]
    step = max(1, _TASK_IMAGES // work.batch)
    tasks = iter([starts[at : at + step] for at in range(0, len(starts), step)])
    working: deque[tuple[Any, Any]] = deque()
    for member in crew * _AHEAD:
        _give(member, shared, tasks, working)
    while working:
        member, task = working.popleft()
        try:
            blocks = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            raise (
                error.cause if isinstance(error.cause, DataError) else DataError(f"A Ray task failed: {error}.")
            ) from error
        except ray.exceptions.RayError as error:
            raise DataError(f"Ray lost a worker for good ({error}): run the same command again to go on.") from error
        _give(member, shared, tasks, working)
        yield from blocks


def _give(member: Any, shared: Any, tasks: Iterator[NDArray[np.int64]], working: deque[tuple[Any, Any]]) -> None:
    starts = next(tasks, None)
    if starts is not None:
        working.append((member, member.compute.remote([shared], starts)))


class _Worker:
    """One process of the cluster: the encoder, made ready once, and the images."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._work: Extraction | None = None

    def compute(self, shared: list[Any], starts: NDArray[np.int64]) -> list[BlockFeatures]:
        """`shared` holds the reference to the work: in a list, so that it is fetched once and not with every task."""
        import ray

        work = self._work = self._work or ray.get(shared[0])
        return list(work.compute(starts))
