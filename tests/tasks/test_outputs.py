"""Where commands write: one rule for all of them."""

import numpy as np
import pytest


@pytest.fixture
def writing(pipeline, checkpoint, parts, tmp_path):
    """Commands without their --out, and the name of what they write."""
    test, train = pipeline / "test.h5", pipeline / "train.h5"
    copy = tmp_path / "copy.h5"
    copy.write_bytes(test.read_bytes())
    np.save(tmp_path / "features.npy", np.ones((2, 3), dtype=np.float32))
    return [
        (("extract", "--checkpoint", checkpoint, "--data", "digits#test", "--limit", 2), "a.h5"),
        (("import", tmp_path / "features.npy"), "a.h5"),
        (("merge", parts / "0.h5", parts / "12.h5"), "a.h5"),
        (("merge", parts / "0.h5", parts / "12.h5", "--virtual"), "a.h5"),
        (("export", test, "--to", "npy"), "a"),
        (("linear-eval", "--train", train, "--test", test, "--preset", "logistic"), "a"),
        (("retrieval", "build", "--gallery", test), "a.index"),
        (("duplicates", test), "a.html"),
        (("compare", test, copy), "a.csv"),
        (("convert", checkpoint, "--to", "torchvision"), "a.pth"),
    ]


def test_missing_folders_are_created_except_in_the_root(call, writing, tmp_path):
    for number, (command, name) in enumerate(writing):
        out = tmp_path / f"new{number}" / "folder" / name
        result = call(*command, "--out", out)
        assert result.exit_code == 0, result.output
        assert out.exists()
        result = call(*command, "--out", f"/misspelled/{name}")
        assert result.exit_code == 1
        assert "/misspelled does not exist" in result.stderr
