"""Several processes on this machine without torchrun: as detectron2's `launch` does it, by torch.multiprocessing."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from simsiam_eval.command import end_workers
from simsiam_eval.errors import DataError, UsageError, UserError
from simsiam_eval.stopping import StopRequest, stop_requests

S = TypeVar("S")
R = TypeVar("R")
_INTERRUPTED, _TERMINATED = 130, 143
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_GRACE = 15.0  # seconds that the others have after one has failed: they may wait for it for good


def run_on_processes(work: Callable[[S], R], settings: S, count: int | None, device: str) -> R:
    """`work(settings)` in `count` processes that join as torchrun's do, and the main one's result.

    Of one process, and in those of torchrun, it is called here. `work` and `settings` are pickled. A first Ctrl-C, SIGTERM
    or SIGUSR1 is handed on; a second one, or the end of this process, ends the others.

    Raises:
        UsageError: torchrun started another number, or there are not so many GPUs.
        DataError: a process was killed. What `work` raises, of the process where it began.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        if count not in (None, here):
            raise UsageError(f"--num-gpus {count}, but torchrun started {here} here: leave out one of the two.")
        return work(settings)
    if count in (None, 1):
        return work(settings)
    _check_devices(count, device)
    with TemporaryDirectory() as folder, stop_requests() as stop:
        processes = _start(count, work, settings, Path(folder))
        try:
            ended = _wait(processes, stop)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return _outcome(ended, Path(folder), stop)


def _check_devices(count: int, device: str) -> None:
    from simsiam_eval.device import resolve_device

    chosen = resolve_device(device)
    if chosen.type != "cuda":
        return
    import torch

    if chosen.index is not None:
        raise UsageError(f"--device {device} is one GPU and --num-gpus {count} are several: give --device cuda.")
    if count > torch.cuda.device_count():
        raise UsageError(f"--num-gpus {count}, but this machine shows {torch.cuda.device_count()}.")


def _start(count: int, work: Callable[[S], R], settings: S, folder: Path) -> list[Process]:
    from torch.multiprocessing.spawn import start_processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    resource_tracker.ensure_running()  # it would take the signals from their block
    with _signals_wait():
        given = (count, port, work, settings, folder)
        return list(start_processes(_work, given, nprocs=count, join=False).processes)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """In the block signals stay on their way, in processes that begin in it too, until they ask for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(rank: int, count: int, port: int, work: Callable[[S], R], settings: S, folder: Path) -> None:
    """What a process does; torch has made the end of its parent a SIGINT to it."""
    import torch

    os.setpgid(0, 0)  # a terminal's Ctrl-C comes from the parent alone, and once
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()})
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // count))
    try:
        result = work(settings)
        outcome: Any = result if rank == 0 else None
    except Exception as error:
        error.add_note(f"In process {rank} of {count}: {traceback.format_exc()}")
        outcome = _portable(error)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    finally:
        end_workers()
    with (folder / f"{rank}.part").open("wb") as file:
        pickle.dump((time.time(), outcome), file)
    (folder / f"{rank}.part").rename(folder / str(rank))
    if isinstance(outcome, Exception):
        raise SystemExit(1)


def _on_sigterm(number: int, frame: Any) -> None:
    raise SystemExit(_TERMINATED)


def _portable(error: Exception) -> Exception:
    """As it is, where that can be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _wait(processes: list[Process], stop: StopRequest) -> list[int | None]:
    """Until all have ended; their exit codes, None of those that had to be ended as another had failed."""
    told, deadline = False, None
    while running := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in running], timeout=0.2)
        if stop.status and not told:
            told = True
            for process in running:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGINT if stop.status == _INTERRUPTED else signal.SIGTERM)
        if deadline is None and any(process.exitcode for process in processes):
            deadline = time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            break
    return [process.exitcode for process in processes]


def _outcome(ended: list[int | None], folder: Path, stop: StopRequest) -> Any:
    """The main process's result, or what is to be raised: a sentence, else a killed process, which is the others' error."""
    files = {rank: folder / str(rank) for rank in range(len(ended)) if (folder / str(rank)).exists()}
    left = {rank: pickle.loads(file.read_bytes()) for rank, file in files.items()}
    errors = [one for _, one in sorted(left.values(), key=lambda pair: pair[0]) if isinstance(one, Exception)]
    errors.sort(key=lambda error: not isinstance(error, UserError))
    if errors and isinstance(errors[0], UserError):
        raise errors[0]
    if stop.status and (any(ended) or len(left) < len(ended)):
        raise KeyboardInterrupt if stop.status == _INTERRUPTED else SystemExit(stop.status)
    for rank, code in enumerate(ended):
        if code and rank not in left:
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise DataError(
                f"Process {rank} of {len(ended)} was ended ({how}; is memory short?): the same command goes on from the "
                "last checkpoint."
            )
    if errors:
        raise errors[0]
    return left[0][1]
