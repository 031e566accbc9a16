"""Locales, folders and libraries that are not as expected: the same result, or one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from input_cases.case import Case, difference, run_in
from input_cases.failures import checkpoint
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.neighbors.approximate import build_index
from simsiam_eval.sources.opening import open_source

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


def photos(folder: Path) -> Path:
    for number, name in enumerate(["été/ü", "dog/日本", "été/ñ", "dog/a"]):
        path = folder / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (60 * number, 0, 0)).save(path)
    return folder / "photos"


def sentence(done_status: int, text: str, status: int = 1) -> str | None:
    """What is wrong unless the command ended with this status and one sentence."""
    if "Traceback" in text:
        return "a traceback"
    return difference((done_status, sum(line.startswith("Error:") for line in text.splitlines())), (status, 1))


def locale(folder: Path) -> str | None:
    records = []
    for name, env in (("a.h5", ASCII), ("b.h5", {})):
        line = (
            "extract",
            "--checkpoint",
            checkpoint(folder),
            "--data",
            photos(folder),
            "--out",
            folder / name,
            "--json",
        )
        done = run_in({**os.environ, **env}, *line)
        if done.returncode:
            return done.stderr[-300:]
        records.append(json.loads(done.stdout)["provenance"]["source"])
    return difference(records[0], records[1])


def with_home(home: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        env = {
            name: value for name, value in os.environ.items() if name not in ("SIMSIAM_EVAL_CACHE", "XDG_CACHE_HOME")
        }
        line = ("knn", "--checkpoint", checkpoint(folder), "--train", photos(folder), "--test", folder / "photos")
        done = run_in(env | {"HOME": home}, *line, "-k", "1")
        return sentence(done.returncode, done.stderr)

    return check


def without_temporary_folder(folder: Path) -> str | None:
    code = "import tempfile, sys; tempfile._candidate_tempdir_list = list; import cli; cli.main(sys.argv[1:])"
    line = ["extract", "--checkpoint", checkpoint(folder), "--data", photos(folder), "--out", folder / "a.h5"]
    command = [sys.executable, "-c", code, *map(str, line), "--workers", "1"]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300, check=False)
    return sentence(done.returncode, done.stderr)


def index(factory: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        bank = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)
        try:
            build_index(bank, factory)
        except (UsageError, DataError) as error:
            return None if "\n" not in str(error) else "several lines"
        return "accepted"

    return check


def empty(name: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        with h5py.File(folder / "a.h5", "w") as file:
            file["x"], file["y"] = np.zeros((3, 4, 4, 3), np.uint8), np.arange(3)
            del file[name]
            file[name] = h5py.Empty("u1")
        try:
            open_source(f"{folder}/a.h5")
        except DataError:
            return None
        return "accepted"

    return check


CASES = [
    Case("a locale without UTF-8, names that are not ASCII", "the same images", locale),
    Case("a home folder in which nothing can be written", "one sentence", with_home("/proc")),
    Case("decoding processes without a folder for temporary files", "one sentence", without_temporary_folder),
    *(
        Case(f"--index {factory}", "one sentence", index(factory))
        for factory in ("", "X", "IVF0,Flat", "HNSW0", "HNSW1", "PQ8x0", "PQ7", "RR0,Flat", "IVF99999999999,Flat",
                        "IDMap,Flat",
                        "HNSW999999999", "PQ4x99", "IVF4,Refine(", "PCA100,Flat", "IVF301,Flat")
    ),
    Case("HDF5 images are an empty dataset", "one sentence", empty("x")),
    Case("HDF5 labels are an empty dataset", "one sentence", empty("y")),
]  # fmt: skip
