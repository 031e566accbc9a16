"""A small COCO dataset to edit."""

import json

import pytest


@pytest.fixture
def coco(shapes, tmp_path):
    """coco(change) -> the spec of the training split after change(content) of its annotation file."""
    folder = shapes.write_coco(tmp_path / "coco", {"train": 4, "val": 4})
    file = folder / "annotations" / "instances_train.json"

    def edit(change):
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return f"coco:{folder}#train"

    return edit
