"""Write the cases of installed toolkits into a folder.

python tests/encoders/make_corpus.py FOLDER [NAME ...]
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.encoders.cases import build  # noqa: E402
from tests.encoders.toolkits.table import BUILDERS  # noqa: E402


def share(folder: Path, known: dict[str, Path]) -> None:
    """Replace files of 1 MB or more that another case has too by links to that one's."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 1e6:
            same = known.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
            if same != path:
                path.unlink()
                os.link(same, path)


def main() -> int:
    known: dict[str, Path] = {}
    out, names = Path(sys.argv[1]), sys.argv[2:] or list(BUILDERS)
    failed = 0
    for name in names:
        builder = BUILDERS[name]
        if builder.missing:
            print(f"{name}: skipped, without {', '.join(builder.missing)}")
        elif not (out / name / "case.json").exists():
            try:
                build(builder, out / name)
                share(out / name, known)
                print(name, flush=True)
            except Exception:
                failed += 1
                print(f"{name}: failed", traceback.format_exc()[-1500:], flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
