"""docs/settings.md says what the dataclasses say, and every link of the guides leads somewhere."""

import ast
import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.encoders.encoder import build_trunk

DOCS = Path(__file__).parent.parent / "docs"


def test_settings_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("docs_settings", DOCS / "settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == module.page(), "run: python docs/settings.py"


def _anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.glob("*.md")),
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def _documented_metrics(command):
    """The keys in the table of a command in docs/records.md."""
    page = (DOCS / "records.md").read_text(encoding="utf-8")
    table = page.partition(f"## `{command}`\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`(\w+)`", row) if key != "metrics"}


def test_the_records_page_has_every_key(record, checkpoint, tmp_path):
    torch.save({f"{name}.{key}": weight for name in ("left", "right")
                for key, weight in build_trunk("resnet18", "cifar").state_dict().items()}, tmp_path / "two.pth")  # fmt: skip
    np.save(tmp_path / "a.npy", np.ones((2, 3), dtype=np.float32))
    records = [
        record("inspect", checkpoint, "--images", "digits"),
        record("inspect", tmp_path / "two.pth"),
        record("convert", checkpoint, "--to", "torchvision", "--out", tmp_path / "a.pth"),
        record("import", tmp_path / "a.npy", "--to", tmp_path / "a.h5"),
    ]
    for task in ("inspect", "convert", "import"):
        metrics = {key for made in records if made["task"] == task for key in made["metrics"]}
        assert _documented_metrics(task) == metrics
    page = (DOCS / "records.md").read_text(encoding="utf-8")
    for key in {key for made in records for key in (*made, *made["provenance"])}:
        assert f"`{key}`" in page or key in ("encoder", "preprocessing", "source", "precision"), key


@pytest.fixture
def examples(pipeline, checkpoint, tmp_path, monkeypatch):
    """A working folder with the files that Python examples name."""
    rng = np.random.default_rng(0)
    names = [
        f"photos/{split}/{label}/{number}.jpg" for split in ("train", "test") for label in "ab" for number in range(3)
    ]
    for name in ("cat.jpg", "dog.jpg", *names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name)
    for name in ("checkpoint.pth.tar", "checkpoint_0099.pth.tar"):
        shutil.copy(checkpoint, tmp_path / name)
    for split in ("train", "test"):
        shutil.copy(pipeline / f"{split}.h5", tmp_path)
    monkeypatch.chdir(tmp_path)


def python_blocks(page):
    """The Python code of a page."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))


@pytest.mark.usefixtures("examples")
def test_the_python_example_of_readme_runs():
    with pytest.warns(UserWarning, match="only 6 training rows"):
        exec(python_blocks(DOCS.parent / "README.md"), names := {})
    assert names["result"].metrics["top1"] > 0.3
    assert names["train"].class_names == ["a", "b"]


@pytest.mark.usefixtures("examples")
def test_the_python_page_runs():
    exec(python_blocks(DOCS / "python.md"), names := {})
    assert names["search"].best_score_ > 0.3
    assert len(names["result"].to_frame()) == 2


@pytest.mark.parametrize("script", sorted((DOCS.parent / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_run_as_scripts(script):
    """`python benchmarks/NAME.py` finds its neighbors by their bare names; there is no package `benchmarks`."""
    imported = {node.module for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if name and name.partition(".")[0] == "benchmarks"]
