"""Recorded cases: a case and the skeletons of its files, without weights, one JSON file each in records/.

    python tests/encoders/records.py FOLDER [NAME ...]   # record cases of a folder, as make_corpus.py writes them

Files that no skeleton describes (TorchScript, ONNX, distributed shards) are not recorded; tests of their format build them.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.encoders.cases import Case, read_case  # noqa: E402
from tests.encoders.skeleton import Rebuilder, Tables, describe  # noqa: E402

RECORDS = Path(__file__).with_name("records")
TABLES = Path(__file__).with_name("tables.json")
LARGEST = 30_000  # bytes of a record
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


def read_tables() -> Tables:
    """Name -> key -> shape."""
    return json.loads(TABLES.read_text())


def write_tables(tables: Tables) -> None:
    """One table a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(table)}" for name, table in tables.items()]
    TABLES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def record(folder: Path) -> dict[str, Any] | None:
    """The record of a case; None if a file of it cannot be described."""
    case, tables = read_case(folder), read_tables()
    target = folder / case.file
    beside = (
        target.rglob("*") if target.is_dir() else [target, *target.parent.glob("*.json"), *target.parent.glob("*.yaml")]
    )
    paths = sorted({path for path in beside if path.is_file() and path.name != "case.json"})
    try:
        files = {str(path.relative_to(folder)): _describe_file(path, tables, case.name) for path in paths}
    except ValueError:
        return None
    if None in files.values():
        return None
    write_tables(tables)
    return {"case": case.to_dict(), "files": files}


def _describe_file(path: Path, tables: Tables, name: str) -> dict[str, Any] | None:
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":
        from safetensors import safe_open

        with safe_open(path, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return {"safetensors": describe(tensors, tables, name)["v"], "metadata": opened.metadata()}
    if start[:2] == b"PK" or _LEGACY_MAGIC in start:
        if start[:2] == b"PK" and not torch.serialization._is_zipfile(path.open("rb")):
            return None
        try:
            # The recorder reads what make_corpus.py wrote on the same machine.
            content = torch.load(path, map_location="cpu", weights_only=False)
        except Exception:
            return None
        if isinstance(content, torch.jit.ScriptModule):
            return None
        return {"torch" if start[:2] == b"PK" else "legacy": describe(content, tables, name)}
    if start[:1] == b"\x80":
        with path.open("rb") as file:
            return {"pickle": describe(pickle.load(file), tables, name)}
    if path.stat().st_size < 8000:
        try:
            return {"text": path.read_text()}
        except UnicodeDecodeError:
            return None
    return None


def write(files: dict[str, Any], folder: Path, rebuilder: Rebuilder) -> None:
    """Build the files of a record with random weights."""
    for name, description in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "text" in description:
            path.write_text(description["text"])
        elif "safetensors" in description:
            from safetensors.torch import save_file

            tensors = {key: value.clone() for key, value in rebuilder.mapping(description["safetensors"]).items()}
            save_file(tensors, path, metadata=description["metadata"])
        elif "pickle" in description:
            path.write_bytes(pickle.dumps(rebuilder.build(description["pickle"]), protocol=2))
        else:
            legacy = "legacy" in description
            content = rebuilder.build(description["legacy" if legacy else "torch"])
            with rebuilder.importable():
                torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def read_record(path: Path) -> tuple[Case, dict[str, Any]]:
    """A record's case and files."""
    content = json.loads(path.read_text())
    return Case.from_dict(content["case"]), content["files"]


def main() -> None:
    RECORDS.mkdir(exist_ok=True)
    source = Path(sys.argv[1])
    for name in sys.argv[2:] or sorted(path.parent.name for path in source.glob("*/case.json")):
        found = record(source / name)
        if found is None:
            print(f"{name}: not recorded")
            continue
        text = json.dumps(found) + "\n"
        print(f"{name}: {len(text)} bytes{' (too large)' if len(text) > LARGEST else ''}")
        (RECORDS / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main()
