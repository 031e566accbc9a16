"""Which modules of tasks/detection may import which: data < metrics, backends < the rest, and settings at the door only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
PACKAGE = ROOT / "tasks" / "detection"
# Small dataclasses and tables without further imports.
PLAIN = {f"tasks.detection.{name}" for name in ("schedule", "detector_spec", "presets")}


def imports_of(file):
    """The modules of tasks/detection that a file imports, also within functions."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules |= {name for name in names if name.startswith(("tasks", "pretrain", "cli"))}
    return modules


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("data", ("tasks.detection.data",)),
        ("metrics", ("tasks.detection.data", "tasks.detection.metrics")),
        ("backends", ("tasks.detection.data", "tasks.detection.backends")),
        ("backends/torchvision", ("tasks.detection.data", "tasks.detection.backends")),
        ("backends/detectron2", ("tasks.detection.data", "tasks.detection.backends")),
    ],
)
def test_rooms_import_only_what_lies_below(folder, allowed):
    for file in (PACKAGE / folder).glob("*.py"):
        others = {name for name in imports_of(file) - PLAIN if not name.startswith(allowed)}
        assert not others, f"{file.relative_to(ROOT)} imports {others}"


def test_backends_do_not_import_each_other():
    for name, other in (("torchvision", "detectron2"), ("detectron2", "torchvision")):
        for file in (PACKAGE / "backends" / name).glob("*.py"):
            assert not any(module.startswith(f"tasks.detection.backends.{other}") for module in imports_of(file))


def test_only_the_door_knows_the_settings():
    importers = {file.name for file in PACKAGE.rglob("*.py") if "tasks.detection.settings" in imports_of(file)}
    assert importers == {"detect.py"}
