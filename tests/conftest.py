"""Fixtures: the command line, a short pipeline that runs once, and a cache folder for the tests."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# One thread for the arrays of tests, which are small, and for the processes that they start: on cores that others use too,
# threads that wait for each other take ten times as much processor time. Read when NumPy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import settings
from PIL import Image

from cli import main
from simsiam_eval.commands.options import command
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import spelled_as

# No deadline: no test asserts a time. No database: a run does not depend on the one before.
settings.register_profile("simsiam-eval", deadline=None, database=None)
settings.load_profile("simsiam-eval")


def pytest_collection_modifyitems(items):
    """Tests marked detectron2 are skipped without it."""
    from tasks.detection.backends.detectron2.backend import Detectron2Backend

    missing = Detectron2Backend().unavailable()
    if missing:
        for item in items:
            if item.get_closest_marker("detectron2"):
                item.add_marker(pytest.mark.skip(reason=missing))


SMALL = ("--preset", "digits", "--image-size", "8", "--data", "digits#train")


@pytest.fixture(autouse=True, scope="session")
def _test_cache(tmp_path_factory):
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

    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert not (unknown := _unknown_options(arguments, result.stderr)), f"not an option: {unknown}\n{result.stderr}"
        return result

    return run


def _unknown_options(arguments, error):
    """Options that an error names and the command does not have; those of other commands stand between backticks."""
    names = [name for name in COMMANDS if tuple(name.split()) == arguments[: len(name.split())]]
    sentences = re.sub("`[^`]*`", "", "".join(re.findall("^Error: .*$", error, re.MULTILINE)))
    if not names:
        return set()
    parameters = command(names[0], COMMANDS[names[0]].settings_class(), COMMANDS[names[0]].run).params
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    typed = {str(argument).partition("=")[0] for argument in arguments}
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", sentences)) - known - typed - {"--help"}


@pytest.fixture(scope="session")
def record(call):
    """Like call, for a command that must succeed; returns its JSON record."""

    def run(*arguments):
        result = call(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="session")
def small():
    """Options of the shortest pretraining: handwritten digits at 8 px."""
    return SMALL


@pytest.fixture(scope="session")
def pipeline(record, tmp_path_factory):
    """A folder with run/ (one epoch on digits), train.h5 and test.h5."""
    folder = tmp_path_factory.mktemp("pipeline")
    run = record("pretrain", *SMALL, "--epochs", 1, "--out", folder / "run")
    for split in ("train", "test"):
        checkpoint = run["files"]["checkpoint"]
        record("extract", "--checkpoint", checkpoint, "--data", f"digits#{split}", "--out", folder / f"{split}.h5")
    return folder


@pytest.fixture(scope="session")
def checkpoint(pipeline):
    return pipeline / "run" / "checkpoint_0000.pth.tar"


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """40 noise images in two class folders; the eighth is unreadable."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        path = folder / ("ants" if number < 25 else "bées, the longer name") / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    (folder / "ants" / "007.png").write_bytes(b"not an image")
    return folder


# Runs commands in forked children, so that torch is imported only once; each line of standard input is one run. A child
# can execute code of the test first, and be killed some seconds after the first call of a method.
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
    original = getattr(owner, name)
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))
    timer.daemon = True
    def call_and_start_timer(*args, **kwargs):
        if not timer.is_alive():
            timer.start()
        return original(*args, **kwargs)
    setattr(owner, name, call_and_start_timer)
def child(request):
    exec(request["prepare"], {"os": os, "signal": signal})
    if request["kill"] is not None:
        kill_after(request["kill"], request["after"])
    try:
        cli.main(request["args"], standalone_mode=False)
    except SystemExit as stop:
        os._exit(stop.code or 0)
    os._exit(0)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        child(json.loads(line))
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture(scope="session")
def forked():
    """forked(arguments, prepare="", kill=None, after="module:Class.method") -> wait status of a process that ran them."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe that nobody reads would fill up
    server = subprocess.Popen(
        [sys.executable, "-c", FORKING], cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=log, text=True,
    )  # fmt: skip

    def run(arguments, prepare="", kill=None, after=""):
        request = {"args": [str(argument) for argument in arguments], "prepare": prepare, "kill": kill, "after": after}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        while not (answer := server.stdout.readline()).strip().isdigit():
            assert answer, log.seek(0) or log.read()
        return int(answer)

    yield run
    server.stdin.close()
    server.wait()
