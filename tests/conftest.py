"""The command line as a fixture, one short road walked once, and nothing of a test in the user's cache."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import settings
from PIL import Image

from cli import main
from simsiam_eval.errors import spelled_as

# No deadline: no test asserts a time. No database: a run does not depend on the one before.
settings.register_profile("simsiam-eval", deadline=None, database=None)
settings.load_profile("simsiam-eval")

SMALL = ("--preset", "digits", "--image-size", "8", "--data", "digits#train")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _messages_name_options():
    """Messages as the command line shows them."""
    with spelled_as("options"):
        yield


@pytest.fixture
def messages_name_arguments():
    """Messages as Python shows them."""
    with spelled_as("arguments"):
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


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """40 images of noise in two class folders; the eighth cannot be read."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        path = folder / ("ants" if number < 25 else "bées, the longer name") / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    (folder / "ants" / "007.png").write_bytes(b"not an image")
    return folder


# Runs commands in forked children, so that torch is imported once; each line of standard input is one run. A child may be
# killed some seconds after a method is first called, and can be prepared by code of the test.
FORKING = """
import json, os, signal, sys, threading
from importlib import import_module
import cli, pretrain.run, simsiam_eval.extraction.sets
import torch
torch.set_num_threads(1)
def kill_after(seconds, method):
    module, _, path = method.partition(":")
    owner, name = path.split(".")
    owner = getattr(import_module(module), owner)
    real = getattr(owner, name)
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))
    timer.daemon = True
    def started(*args, **named):
        if not timer.is_alive():
            timer.start()
        return real(*args, **named)
    setattr(owner, name, started)
def child(asked):
    exec(asked["prepare"], {"os": os, "signal": signal})
    if asked["kill"] is not None:
        kill_after(asked["kill"], asked["after"])
    try:
        cli.main(asked["args"], standalone_mode=False)
    except SystemExit as stop:
        os._exit(stop.code or 0)
    os._exit(0)
for line in sys.stdin:
    number = os.fork()
    if number == 0:
        child(json.loads(line))
    print(os.waitpid(number, 0)[1], flush=True)
"""


@pytest.fixture(scope="session")
def forked():
    """forked(arguments, prepare="", kill=None, after="module:Class.method") -> wait status of a process that ran them."""
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe that nobody reads would fill
    server = subprocess.Popen(
        [sys.executable, "-c", FORKING], cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=said, text=True,
    )  # fmt: skip

    def run(arguments, prepare="", kill=None, after=""):
        asked = {"args": [str(one) for one in arguments], "prepare": prepare, "kill": kill, "after": after}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        while not (answer := server.stdout.readline()).strip().isdigit():
            assert answer, said.seek(0) or said.read()
        return int(answer)

    yield run
    server.stdin.close()
    server.wait()
