"""Write a benchmark's Markdown table to benchmarks/results/, with the command, the machine and package versions."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from simsiam_eval.errors import UserError
from simsiam_eval.runtime.machine import versions

RESULTS = Path(__file__).parent / "results"


def run(main: Callable[[], None]) -> None:
    """Run a script; on a UserError, print its message and exit with its status, as the commands do."""
    try:
        main()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def machine() -> str:
    """The processor, its number of usable cores, and the GPUs."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{model}, {len(os.sched_getaffinity(0))} cores", *gpus])


def write_table(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> Path:
    """Print the table and write it to results/NAME.md."""
    packages = ", ".join(f"{package} {version}" for package, version in versions().items())
    header = [
        f"# {title}",
        "",
        f"`python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}`, {time.strftime('%Y-%m-%d')}",
        f"on {machine()}; {packages}.",
        "",
    ]
    body = [" | ".join(["", *row, ""]).strip() for row in (columns, ["---"] * len(columns), *rows)]
    text = "\n".join([*header, *body, *(f"\n{note}" for note in notes), ""])
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text)
    return path
