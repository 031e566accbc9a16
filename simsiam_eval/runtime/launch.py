"""`--num-gpus N`: start the same command in N processes with torchrun."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

from simsiam_eval.errors import UsageError
from simsiam_eval.runtime.exit_report import read_exit_reports, show_exit
from simsiam_eval.runtime.immediate_exit import EXIT_REPORTS
from simsiam_eval.runtime.machine import local_processes, usable_cores
from simsiam_eval.wording import counted

_PACKAGE = Path(__file__).resolve().parents[1]


def torchrun_group() -> tuple[int, int] | None:
    """Rank of this process and number of processes that torchrun started; None without torchrun. (RANK alone is another
    scheduler's.)

    Raises:
        UsageError: the variables hold no such numbers.
    """
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return None
    try:
        group = int(rank), int(world)
    except ValueError:
        group = 0, 0
    if not 0 <= group[0] < group[1]:
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={world} are inconsistent: start the command with torchrun, or unset them."
        )
    return group


def under_torchrun(count: int | None, device: str) -> None:
    """Return if this is one of `count` processes (None: of any number); else start them with torchrun, wait, print the
    error of theirs, if any, and exit with its status.

    Raises:
        SystemExit: torchrun has run.
        UsageError: torchrun started another number, there are fewer GPUs, or the program is not the command line.
    """
    if torchrun_group() is not None:
        local = local_processes()
        if count not in (None, local):
            raise UsageError(
                f"--num-gpus is {count}, but torchrun started {local} processes here: use only one of the two."
            )
        return
    if count in (None, 1):
        return
    _check_devices(count, device)
    program = _program()
    if program is None:
        raise UsageError(
            f"--num-gpus requires the command line: run your program with `torchrun --nproc-per-node {count}` instead."
        )
    # Otherwise torchrun sets one thread per process, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(run_torchrun([f"--nproc-per-node={count}", *program, *sys.argv[1:]]))


def run_torchrun(arguments: list[str]) -> int:
    """Run `torchrun --standalone` without its own report of failed processes, which would bury theirs; prints the one
    sentence that says why they ended, and returns the exit status."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # torchrun logs each process that it ends
    number = exit_code = rank = 0
    with tempfile.TemporaryDirectory(prefix="simsiam-eval-") as folder:
        os.environ[EXIT_REPORTS] = folder
        try:
            run.run(run.parse_args(["--standalone", *arguments]))
        except SignalException as error:
            number = int(error.sigval)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            exit_code = failure.exitcode
        finally:
            del os.environ[EXIT_REPORTS]
            logging.disable(logging.NOTSET)
        reports = read_exit_reports(Path(folder))
    if not number and not exit_code:
        return 0
    return show_exit(reports, number, rank, exit_code)


def _program() -> list[str] | None:
    """How torchrun starts the command line that runs here; None for another program."""
    program = Path(sys.argv[0])
    if program.stem == "simsiam-eval" or program.resolve() == _PACKAGE.parent / "cli.py":
        return [sys.argv[0]]
    if program.resolve() == _PACKAGE / "__main__.py":  # python -m simsiam_eval
        return ["-m", _PACKAGE.name]
    return None


def _check_devices(count: int, device: str) -> None:
    from simsiam_eval.runtime.device import resolve_device

    chosen = resolve_device(device)
    if chosen.type != "cuda":
        return
    import torch

    if chosen.index is not None:
        raise UsageError(f"--device {device} is a single GPU, but --num-gpus is {count}: use --device cuda.")
    if count > torch.cuda.device_count():
        raise UsageError(f"--num-gpus is {count}, but this machine has {counted(torch.cuda.device_count(), 'GPU')}.")
