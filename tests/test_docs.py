"""docs/settings.md says what the dataclasses say, and every link of the guides leads somewhere."""

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_the_python_example_of_readme_runs(road, checkpoint, tmp_path, monkeypatch):
    """As written, in a folder that holds what it names."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    rng = np.random.default_rng(0)
    names = [
        f"photos/{split}/{label}/{number}.jpg" for split in ("train", "test") for label in "ab" for number in range(3)
    ]
    for name in ("cat.jpg", "dog.jpg", *names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name)
    shutil.copy(checkpoint, tmp_path / "checkpoint_0099.pth.tar")
    for split in ("train", "test"):
        shutil.copy(road / f"{split}.h5", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="only 6 training rows"):
        exec(code, names := {})
    assert names["result"].metrics["top1"] > 0.3
    assert names["train"].class_names == ["a", "b"]
