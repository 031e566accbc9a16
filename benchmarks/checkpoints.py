"""Load whole folders of checkpoints that real toolkits wrote, and compare with the toolkits' own features.

Each case is a folder as in tests/encoders/cases.py; `python tests/encoders/make_corpus.py FOLDER` writes those of the
toolkits that are installed.

    python benchmarks/checkpoints.py FOLDER [FOLDER ...]

Writes benchmarks/results/checkpoints.md and docs/checkpoint-families.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from report import write_table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.encoders.cases import read_case  # noqa: E402
from tests.encoders.outcomes import ASSUMED, EXACT, FAULT, REJECTED, Outcome, outcome_of  # noqa: E402

FAMILIES_HEAD = """# Checkpoint families

Which toolkits' files are recognized, and how closely features agree with the toolkit's own encoder
on the same images. `python benchmarks/checkpoints.py` writes this page; the counts of all files are
in [benchmarks/results/checkpoints.md](../benchmarks/results/checkpoints.md).

| family | written by | files | recognized | max abs difference | min cosine |
| --- | --- | --- | --- | --- | --- |
"""
FAMILIES_FOOT = """
- Recognized: loaded with the right branch, variant and heads. A file is also counted where nothing in
  it distinguishes the network from another one, and `inspect` names the assumption it makes.
- Max abs difference: of a feature, relative to the largest feature, over all files of the row.
- Not in this run: DenseCL's own repository with OpenSelfSup's algorithms (7 files),
  maskrcnn-benchmark (2) and solo-learn 1.0.2 (5). They were recognized in the run of commit 1b7a02b.
"""


def families_page(outcomes: Sequence[Outcome]) -> str:
    """The table of families as a Markdown page."""
    rows: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.case.expect in ("load", "assume"):
            rows[outcome.family or outcome.case.family or "not recognized", outcome.case.written_by].append(outcome)
    lines = []
    for (family, written_by), group in sorted(rows.items()):
        recognized = sum(outcome.result != FAULT for outcome in group)
        differences = [outcome.difference for outcome in group if outcome.difference is not None]
        cosines = [outcome.cosine for outcome in group if outcome.cosine is not None]
        parity = [f"{max(differences):.0e}", f"{min(cosines):.6f}"] if differences else ["-", "-"]
        lines.append(" | ".join(["", family, written_by, str(len(group)), str(recognized), *parity, ""]).strip())
    return FAMILIES_HEAD + "\n".join(lines) + "\n" + FAMILIES_FOOT


def rows_of(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The counts: files tried and each result."""
    counts = Counter(outcome.result for outcome in outcomes)
    return [
        ["tried", str(len(outcomes))],
        *([result, str(counts[result])] for result in (EXACT, ASSUMED, REJECTED, FAULT)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="Folders of cases.")
    parser.add_argument("--only", default="", help="Only cases whose name contains this; writes nothing.")
    args = parser.parse_args()
    cases = sorted(path.parent for folder in args.folders for path in folder.glob("*/case.json"))
    outcomes = []
    for folder in cases:
        if args.only in folder.name:
            outcomes.append(outcome_of(read_case(folder), folder))
            print(f"{folder.name}: {outcomes[-1].result}", *outcomes[-1].faults, sep="; ", file=sys.stderr, flush=True)
    if args.only:
        return
    worst = max((outcome.difference or 0 for outcome in outcomes if outcome.result == EXACT), default=0)
    faults = [f"Wrong: {o.case.name} ({'; '.join(o.faults)})." for o in outcomes if o.result == FAULT]
    write_table(
        "checkpoints",
        "Checkpoints that real toolkits wrote",
        ["files", "number"],
        rows_of(outcomes),
        [
            f"Largest difference of a feature in a file that is loaded exactly: {worst:.1e} of the largest feature.",
            *faults,
        ],
    )
    (ROOT / "docs" / "checkpoint-families.md").write_text(families_page(outcomes))
    sys.exit(any(outcome.result == FAULT for outcome in outcomes))


if __name__ == "__main__":
    main()
