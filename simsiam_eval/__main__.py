"""Entry point of `simsiam-eval` and `python -m simsiam_eval`; the same as cli.py."""

import os
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the command line."""
    from simsiam_eval.runtime.immediate_exit import end_at_signals

    end_at_signals()
    from simsiam_eval.commands.table import load

    load("cli:main")()


def _leave_out_working_folder() -> None:
    """`python -m` puts the working folder first on sys.path, where processes started later would find a user's own
    `pretrain.py` for ours."""
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()) and Path.cwd() != _HOME:
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_working_folder()
    main()
