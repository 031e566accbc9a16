"""`--num-gpus N`: torchrun's launcher as a library, with its signals and its errors made this command's."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing import active_children, resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import uuid4

from simsiam_eval.command import end_workers
from simsiam_eval.errors import DataError, UsageError, UserError
from simsiam_eval.stopping import SIGNALS, ignore_stop_signals, stop_requests

S = TypeVar("S")
R = TypeVar("R")
_INTERRUPTED = 130


def run_on_processes(work: Callable[[S], R], settings: S, count: int | None, device: str) -> R:
    """`work(settings)` in `count` processes that torchrun's launcher starts, and the main one's result.

    Of one process, and in those of torchrun, it is called here. `work` and `settings` are pickled. A first Ctrl-C, SIGTERM
    or SIGUSR1 is handed on; a second one, or the end of this process, ends the others.

    Raises:
        UsageError: torchrun started another number, or there are not so many GPUs.
        DataError: a process was killed. What `work` raises comes as it is where a user can cause it (UserError, OSError, out
            of memory), else as torch's ChildFailedError, which shows the traceback.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        if count not in (None, here):
            raise UsageError(f"--num-gpus {count}, but torchrun started {here} here: leave out one of the two.")
        return work(settings)
    if count in (None, 1):
        return work(settings)
    _check_devices(count, device)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    others, told = set(active_children()), False
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread, stop_requests() as stop:
        launched = _launch(thread, count, Path(folder), work, settings)
        try:
            while not wait([launched], timeout=0.2).done:
                if stop.status and not told and len(started := set(active_children()) - others) == count:
                    told = True
                    for process in started:
                        os.kill(process.pid or 0, signal.SIGINT if stop.status == _INTERRUPTED else signal.SIGTERM)
            return launched.result()[0]
        except ChildFailedError as failed:
            _raise_cause(failed, count, Path(folder), stop.status)
            raise
        except (KeyboardInterrupt, SystemExit):  # a second signal
            end_workers()
            raise


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


def _launch(thread: ThreadPoolExecutor, count: int, folder: Path, *given: Any) -> Future[dict[int, Any]]:
    """Start torch's launcher in `thread`, with signals blocked there and in the processes until they ask for them.

    In the main thread torch would let a signal break off its starting of processes, and those that are still at their
    imports would answer it with tracebacks.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, max_restarts=0, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        local_addr="localhost", run_id=uuid4().hex, logs_specs=DefaultLogsSpecs(str(folder / "torch")),
    )  # fmt: skip
    resource_tracker.ensure_running()  # it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return thread.submit(elastic_launch(config, _work), folder, *given)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(folder: Path, work: Callable[[S], R], settings: S) -> R | None:
    """What a process does; torch has made the end of its parent a SIGINT to it."""
    import torch

    rank, count = os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    try:
        os.setpgid(0, 0)  # a terminal's Ctrl-C comes from the parent alone, and once
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // count))
        result = work(settings)
        return result if rank == "0" else None
    except (UserError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        ignore_stop_signals()  # torch ends the others of one that has failed
        error.add_note(f"In process {rank} of {count}: {traceback.format_exc()}")
        (folder / rank).write_bytes(pickle.dumps(error))
        raise SystemExit(1) from error
    except RuntimeError:
        time.sleep(1)  # such as of a lost connection: the process that was lost is to be seen first
        raise
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    finally:
        # From here on a KeyboardInterrupt would be torch's, which takes it for a success whose result is still to come.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        end_workers()


def _raise_cause(failed: Any, count: int, folder: Path, status: int) -> None:
    """Raise what a process left, else what the signal asks for, else the sentence of one that was killed."""
    for file in sorted(folder.glob("[0-9]*")):
        raise pickle.loads(file.read_bytes()) from failed
    if status:
        raise KeyboardInterrupt if status == _INTERRUPTED else SystemExit(status)
    rank, failure = failed.get_first_failure()
    if not isinstance(failure.message, dict):  # of torch's traceback
        how = failure.signal_name() if failure.exitcode < 0 else f"exit status {failure.exitcode}"
        raise DataError(
            f"Process {rank} of {count} was ended ({how}; is memory short?): the same command goes on from the last "
            "checkpoint."
        ) from failed
