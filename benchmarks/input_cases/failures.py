"""Commands of whose images some or all are unreadable: the exit status, the record, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from input_cases.case import Case, difference, run
from simsiam_eval.encoders.encoder import build_trunk

IMAGES = 20


def images(folder: Path, unreadable: int) -> Path:
    """20 images of two classes, of which the first are unreadable."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / "photos" / ("cat" if number % 2 else "dog") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
        if number < unreadable:
            path.write_bytes(b"not an image")
    return folder / "photos"


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    torch.save(build_trunk("resnet18", "cifar").state_dict(), folder / "c.pth")
    return folder / "c.pth"


def arguments(command: str, folder: Path, photos: Path) -> tuple[list[str | Path], str | None]:
    """The command line, and the file that must be kept."""
    if command == "pretrain":
        small = ["--preset", "digits", "--image-size", "8", "--epochs", "1", "--batch-size", "4"]
        return ["pretrain", *small, "--data", photos, "--out", folder / "run"], "run/checkpoint_last.pth.tar"
    encoder: list[str | Path] = ["--checkpoint", checkpoint(folder)]
    if command == "extract":
        return ["extract", *encoder, "--data", photos, "--out", folder / "a.h5"], "a.h5"
    if command == "knn":
        return ["knn", *encoder, "--train", photos, "--test", photos, "-k", "2"], None
    build: list[str | Path] = ["retrieval", "build", *encoder, "--gallery", photos, "--index", "Flat"]
    return [*build, "--out", folder / "a.index"], "a.index"


def ends(command: str, unreadable: int, status: int, max_unreadable: float = 0.1) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        photos = images(folder, unreadable)
        line, kept = arguments(command, folder, photos)
        more = () if max_unreadable == 0.1 else ("--max-unreadable", str(max_unreadable))
        done = run(*line, *more, "--json")
        if "Traceback" in done.stderr:
            return "a traceback"
        if wrong := difference(done.returncode, status):
            return wrong
        if unreadable == IMAGES:
            return None if "Error: No" in done.stderr else f"the message is: {done.stderr[-300:]}"
        record = json.loads(done.stdout)
        if wrong := difference((len(record["faults"]), record["settings"]["max_unreadable"]), (status, max_unreadable)):
            return wrong
        fault = f"4 of 20 images of {photos} could not be read, which is more than --max-unreadable 0.1"
        if (fault in done.stderr) != bool(status):
            return f"the message is: {done.stderr[-300:]}"
        return None if kept is None or (folder / kept).exists() else f"{kept} was not kept"

    return check


CASES = [
    case
    for command in ("extract", "knn", "retrieval build", "pretrain")
    for case in (
        Case(f"{command}, 1 of 20 images unreadable", "status 0", ends(command, 1, 0)),
        Case(f"{command}, 4 of 20 images unreadable", "status 1; outputs are kept", ends(command, 4, 1)),
        Case(f"{command}, 4 of 20, --max-unreadable 0.2", "status 0", ends(command, 4, 0, 0.2)),
        Case(f"{command}, all unreadable, --max-unreadable 1", "status 1", ends(command, 20, 1, 1.0)),
    )
]
