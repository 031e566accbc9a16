"""Sets with few images, one class or no labels, and the online kNN of `pretrain`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from input_cases.case import Case, run
from input_cases.failures import checkpoint
from simsiam_eval.features.writer import write_features

TINY = ("--preset", "cifar10", "--image-size", "8", "--dim", "16", "--pred-dim", "8", "--projector-hidden", "16",
        "--epochs", "1", "--batch-size", "8", "--knn-k", "3", "--device", "cpu")  # fmt: skip
NOTHING = "there is nothing to classify"


def noise(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for row in range(count):
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / f"{row}.png")


def flat_table(folder: Path, name: str, labels: Sequence[object]) -> None:
    lines = [f"{row}.png,{label}" for row, label in enumerate(labels)]
    (folder / f"{name}.csv").write_text("\n".join(["path,label", *lines]))


def features(folder: Path, name: str, labels: Sequence[int], seed: int) -> Path:
    values = np.random.default_rng(seed).normal(size=(len(labels), 4)).astype(np.float32)
    path = folder / f"{name}.h5"
    write_features(path, values, np.array(labels), [f"{name}{row}" for row in range(len(labels))],
                   encoder={"arch": "made"}, source={"spec": name})  # fmt: skip
    return path


def command(
    *arguments: str, train: Sequence[int], test: Sequence[int], part: str, status: int = 1
) -> Callable[[Path], str | None]:
    """Whether a command on feature files ends with this status and these words."""

    def check(folder: Path) -> str | None:
        paths = {"@train": features(folder, "train", train, 0), "@test": features(folder, "test", test, 1)}
        done = run(*(paths.get(argument, argument) for argument in arguments))
        if done.returncode != status or part not in done.stderr or "Traceback" in done.stderr:
            return f"status {done.returncode}: {(done.stderr or done.stdout)[-300:]}"
        return None

    return check


def online(
    data: Sequence[object], val: Sequence[object], part: str | None, top1: tuple[float, float] = (0, 1)
) -> Callable[[Path], str | None]:
    """Whether `pretrain --val` is rejected with these words, or, without words, has an accuracy within `top1`."""

    def check(folder: Path) -> str | None:
        noise(folder, 16)
        flat_table(folder, "data", data)
        flat_table(folder, "val", val)
        out = folder / "run"
        done = run("pretrain", *TINY, "--data", folder / "data.csv", "--val", folder / "val.csv", "--out", out)
        if part is not None:
            rejected = done.returncode == 1 and part in done.stderr and not list(out.glob("checkpoint*"))
            return None if rejected else f"status {done.returncode}: {done.stderr[-300:]}"
        if done.returncode:
            return done.stderr[-300:]
        found = json.loads((out / "log.jsonl").read_text().splitlines()[-1])["knn_top1"]
        return None if top1[0] <= found <= top1[1] else f"an accuracy of {found}"

    return check


def shuffled(folder: Path) -> str | None:
    """The training images in another order: the accuracy is that of leave-one-out."""
    noise(folder, 16)
    weights = checkpoint(folder)
    lines = [f"{row}.png,{row % 2}" for row in range(16)]
    (folder / "a.csv").write_text("\n".join(["path,label", *lines]))
    (folder / "b.csv").write_text("\n".join(["path,label", *lines[::-1]]))
    found = []
    for test in ("a.csv", "b.csv"):
        done = run("knn", "--checkpoint", weights, "--train", folder / "a.csv", "--test", folder / test, "-k", "3", "--crop",
                   "8", "--device", "cpu", "--json")  # fmt: skip
        found.append(json.loads(done.stdout)["metrics"]["top1"] if done.stdout else done.stderr[-300:])
    return None if found[0] == found[1] else f"{found[0]} in order, {found[1]} in another"


KNN = ("knn", "--train", "@train", "--test", "@test")
LINEAR = ("linear-eval", "--train", "@train", "--test", "@test", "--preset", "small", "--epochs", "2")
RETRIEVAL = ("retrieval", "eval", "--gallery", "@train")
EVEN = [0, 1] * 8
CASES = [
    *(
        Case(f"{' '.join(words[:2 if words[0] == 'retrieval' else 1])}, {name}", expected, command(
            *words, train=train, test=test, part=part))
        for words in (KNN, LINEAR, RETRIEVAL)
        for name, train, test, part, expected in (
            ("one class", [3] * 6, [3] * 4, NOTHING, "nothing to classify"),
            ("one image", [0], [0], NOTHING, "nothing to classify"),
            ("no labels", [-1] * 4, [-1] * 4, "has no labels", "no labels"),
        )
    ),
    Case("knn, k above the bank", "all vote, and said", command(
        *KNN, "-k", "50", train=[0, 1, 0, 1], test=[0, 1], part="there are only 4 neighbors", status=0)),
    Case("linear-eval, labels from 1", "a class is missing", command(
        *LINEAR, train=[0, 1] * 4, test=[1, 2], part="has no image of a class of --test")),
    Case("pretrain --val with the training images", "leave-one-out", online(EVEN, EVEN, None, (0, 0.9))),
    Case("knn, the training images in another order", "each left out of its own neighbors", shuffled),
    Case("pretrain --val with some labels missing", "leave-one-out", online(EVEN, ["NA", *EVEN[1:]], None, (0, 1))),
    Case("pretrain --val with float labels", "leave-one-out", online(EVEN, [float(n) for n in EVEN], None, (0, 0.9))),
    Case("pretrain --val, labels from 1", "a class is missing", online(
        EVEN, [n + 1 for n in EVEN], "has no image of a class of --val")),
    Case("pretrain --val without a class", "as knn", online([*"ab"] * 8, ["b"] * 16, None)),
    Case("pretrain --val with one class", "nothing to classify", online([7] * 16, [7] * 16, NOTHING)),
    Case("pretrain --val without labels", "no labels", online(EVEN, ["NA"] * 16, "has no labels")),
    Case("pretrain --val, names and numbers", "cannot be matched", online(EVEN, [*"ab"] * 8, "cannot be matched")),
]  # fmt: skip
