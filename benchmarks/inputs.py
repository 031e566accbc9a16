"""Try inputs that are easy to misread, and count what comes of them.

    python benchmarks/inputs.py [KIND ...]

The cases are in `input_cases/`, one module per kind; tests/test_input_cases.py runs them as tests. Exits with status 1 if
anything is wrong.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import tempfile
from pathlib import Path

import input_cases
from input_cases.case import Case
from report import write_table

COLUMNS = ["kind", "cases", "as expected", "wrong"]


def modules() -> list[str]:
    """The kinds of inputs."""
    return sorted(module.name for module in pkgutil.iter_modules(input_cases.__path__) if module.name != "case")


def cases(kind: str) -> list[Case]:
    """The cases of a kind."""
    return importlib.import_module(f"input_cases.{kind}").CASES


def outcomes(kind: str) -> dict[str, tuple[str, str | None]]:
    """Name of each case of a kind -> (what is expected, what is wrong; None if nothing is)."""
    found: dict[str, tuple[str, str | None]] = {}
    for case in cases(kind):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            os.environ["SIMSIAM_EVAL_CACHE"] = cache
            try:
                wrong = case.check(Path(folder))
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
        found[case.name] = case.expected, wrong
        print(f"{kind}: {case.name}: {wrong or 'as expected'}", file=sys.stderr)
    return found


def main() -> None:
    chosen = sys.argv[1:] or modules()
    tried = {kind: outcomes(kind) for kind in chosen}
    rows, notes, total = [], [], [0, 0]
    for kind, found in tried.items():
        wrong = {name: reason for name, (_, reason) in found.items() if reason is not None}
        rows.append([kind.replace("_", " "), str(len(found)), str(len(found) - len(wrong)), str(len(wrong))])
        total = [total[0] + len(found), total[1] + len(wrong)]
        listed = [f"- {name}: {reason or expected}" for name, (expected, reason) in found.items()]
        notes.append("\n".join([f"## {kind.replace('_', ' ').capitalize()}", "", *listed]))
    rows.append(["all", str(total[0]), str(total[0] - total[1]), str(total[1])])
    name = "inputs" if not sys.argv[1:] else "inputs_" + "_".join(chosen)
    write_table(name, "Inputs that are easy to misread", COLUMNS, rows, notes)
    sys.exit(1 if total[1] else 0)


if __name__ == "__main__":
    main()
