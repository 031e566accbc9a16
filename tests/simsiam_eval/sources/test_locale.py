"""File names mean the same in a locale without UTF-8."""

import json
import os
import subprocess
import sys
from pathlib import Path

from simsiam_eval.sources.opening import open_source

ROOT = Path(__file__).parents[3]
CODE = """
import json, sys
from simsiam_eval.sources.opening import open_source
sources = [open_source(spec) for spec in sys.argv[1:]]
found = [[s.class_names, s.ids_of(range(len(s))), s.fingerprint(), [s.image(r).pixels().tolist() for r in range(len(s))]]
         for s in sources]
print(json.dumps([sys.getfilesystemencoding(), found]))
"""


def test_names_do_not_depend_on_the_locale(tmp_path, write_image):
    for value, name in enumerate(["été/ü.png", "dog/日本.png", "été/ñ.png"]):
        write_image(tmp_path / "photos" / name, value)
    (tmp_path / "table.csv").write_text("path,label\nphotos/été/ü.png,été\nphotos/dog/日本.png,犬\n", encoding="utf-8")
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", tmp_path, "photos"], check=True)
    specs = [str(tmp_path / name) for name in ("photos", "table.csv", "a.tar", "photos/été/ü.png")]
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, *specs]
    done = subprocess.run(command, env={**os.environ, **ascii_locale}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    encoding, found = json.loads(done.stdout)
    assert encoding == "ascii"
    for spec, (class_names, ids, fingerprint, pixels) in zip(specs, found, strict=True):
        source = open_source(spec)
        assert list(source.class_names or ()) == (class_names or [])
        assert (source.ids_of(range(len(source))), source.fingerprint()) == (ids, fingerprint)
        assert [source.image(row).pixels().tolist() for row in range(len(source))] == pixels
