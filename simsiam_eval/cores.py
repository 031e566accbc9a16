"""How many processor cores there are to use."""

import os


def usable_cores() -> int:
    """Those that this process may run on, where the system tells (Linux), else the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
