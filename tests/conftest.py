"""The command line as a fixture, one short road walked once, and nothing of a test in the user's cache."""

import json

import pytest
from click.testing import CliRunner

from cli import main

SMALL = ("--preset", "digits", "--image-size", "8", "--data", "digits#train")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def call():
    """call("knn", "--train", path, ...) -> Click's result: exit_code, stdout, stderr, output."""
    return lambda *arguments: CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture(scope="session")
def record(call):
    """As call, for a command that must succeed: its JSON record."""

    def recorded(*arguments):
        result = call(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return recorded


@pytest.fixture(scope="session")
def small():
    """Options of the shortest pretraining: handwritten digits at 8 px."""
    return SMALL


@pytest.fixture(scope="session")
def road(record, tmp_path_factory):
    """A folder with run/ (one epoch on digits), train.h5 and test.h5."""
    folder = tmp_path_factory.mktemp("road")
    made = record("pretrain", *SMALL, "--epochs", 1, "--out", folder / "run")
    for split in ("train", "test"):
        checkpoint = made["files"]["checkpoint"]
        record("extract", "--checkpoint", checkpoint, "--data", f"digits#{split}", "--out", folder / f"{split}.h5")
    return folder


@pytest.fixture(scope="session")
def checkpoint(road):
    return road / "run" / "checkpoint_0000.pth.tar"
