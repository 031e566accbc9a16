"""Planted wrong labels and foreign images: how many does each ranking of `suspects` find?

python benchmarks/suspects.py [DATA] [--checkpoint FILE] [--digits-checkpoint FILE]

DATA is a folder with caltech101-34.tar, or with caltech101-34/; without it only scikit-learn's digits are measured.
Without checkpoints, short pretraining runs train the encoders. cleanlab must be installed.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report import run, write_table
from sklearn.metrics import average_precision_score

import simsiam_eval as se
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.linear.out_of_fold import confident_learning, in_columns, out_of_fold, probability_suspects
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.suspects import K, LabelSuspects, label_suspects, outliers
from simsiam_eval.sources.opening import open_source
from simsiam_eval.wording import counted

FLIPPED, FOREIGN = 0.05, 10
HOG_SIDE, HOG_CELL, ORIENTATIONS = 64, 8, 9

Array = np.ndarray[Any, Any]
# Scores (N,) of a ranking, the highest the most suspicious, and how many labels it calls wrong (None: it does not say).
Ranking = tuple[Array, int | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="Folder with caltech101-34.tar or caltech101-34/.")
    parser.add_argument("--checkpoint", type=Path, help="Encoder of the caltech101-34 images.")
    parser.add_argument("--digits-checkpoint", type=Path, help="Encoder of the digits.")
    parser.add_argument("--side", type=int, default=40, help="Side of the caltech101-34 images for the encoder.")
    parser.add_argument("--epochs", type=int, default=4, help="Pretraining epochs without a checkpoint.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Random seeds of what is planted.")
    parser.add_argument(
        "--only", choices=("digits", "caltech101-34"), help="Measure the features of this data set alone."
    )
    parser.add_argument("--neighbors-only", action="store_true", help="Leave out the rankings that train classifiers.")
    args = parser.parse_args()
    if args.neighbors_only:
        for name in ("suspects --method logistic", "suspects --method cleanlab", "cleanlab alone"):
            del RANKINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        sets = dict(_sets(args, Path(folder)))
    flips, foreign = [], []
    for name, (features, labels) in sets.items():
        flips += _flips(name, features, labels, args.seeds)
        foreign += _foreign(name, features, labels, args.seeds)
        print(*flips[-len(RANKINGS) :], *foreign[-3:], sep="\n", flush=True)
    columns = (
        "features",
        "ranking",
        "precision at the number of flips",
        "average precision",
        "called wrong",
        "recall of these",
    )
    found = ("features", "score", "in the first 10 of the class", "in the first 20", "in the first 20 of all images")
    text = [f"Means over {counted(len(args.seeds), 'seed')}; {FLIPPED:.0%} of the labels are changed to another class.",
            f"Votes: k {K}, T 0.07. Logistic: C 0.1, standard scaling, 5 folds. cleanlab alone: "
            "`CleanLearning().find_label_issues(features, labels)` with its default logistic regression.", "",
            f"{FOREIGN} foreign images: those of one class, whose other images are removed, get the label of another class; "
            "both are drawn at random, 10 pairs per seed.", "",
            " | ".join(["", *found, ""]).strip(), " | ".join(["", *["---"] * len(found), ""]).strip(),
            *(" | ".join(["", *row, ""]).strip() for row in foreign)]  # fmt: skip
    write_table("suspects", "Planted wrong labels and foreign images", columns, flips, ["\n".join(text)])


def _sets(args: argparse.Namespace, folder: Path) -> Iterable[tuple[str, tuple[Array, Array]]]:
    """Features and labels, by what they are of."""
    if args.only != "caltech101-34":
        yield from _digits(args, folder)
    if args.only != "digits" and args.data is not None:
        yield from _caltech(args, folder)


def _digits(args: argparse.Namespace, folder: Path) -> Iterable[tuple[str, tuple[Array, Array]]]:
    checkpoint = args.digits_checkpoint or _pretrained(folder / "digits", args.epochs, preset="digits", data="digits",
                                                       image_size=8)  # fmt: skip
    encoder = se.load_encoder(checkpoint)
    digits = se.extract(encoder, "digits", resize=8, crop=8)
    source = open_source("digits")
    pixels = np.stack([_pixels(source, row).mean(axis=2).ravel() for row in range(len(source))])
    yield "digits, pixels", (pixels.astype(np.float32), digits.labels)
    yield f"digits, SimSiam {encoder.arch}, epoch {encoder.report.epoch}", (digits.features[:], digits.labels)


def _caltech(args: argparse.Namespace, folder: Path) -> Iterable[tuple[str, tuple[Array, Array]]]:
    images = args.data / "caltech101-34"
    if not images.is_dir():
        with tarfile.open(args.data / "caltech101-34.tar") as archive:
            archive.extractall(folder, filter="data")
        images = folder / "caltech101-34"
    train = images / "train"
    checkpoint = args.checkpoint or _pretrained(folder / "caltech", args.epochs, preset="cifar10", data=str(train),
                                                stem="imagenet", image_size=args.side, batch_size=64, lr=0.1)  # fmt: skip
    encoder = se.load_encoder(checkpoint)
    extracted = se.extract(encoder, str(train), resize=args.side, crop=args.side)
    name = f"caltech101-34, SimSiam {encoder.arch} at {args.side} px, epoch {encoder.report.epoch}"
    yield name, (extracted.features[:], extracted.labels)
    source = open_source(str(train))
    described = np.stack([_hog_and_color(_pixels(source, row)) for row in range(len(source))])
    yield "caltech101-34, HOG and color", (described, extracted.labels)


def _pixels(source: Any, row: int) -> Array:
    pixels: Array = source.opened(row, None, Intensity()).pixels()
    return pixels


def _pretrained(out: Path, epochs: int, **settings: Any) -> Path:
    result = se.pretrain(out=out, epochs=epochs, tensorboard=False, **settings)
    return Path(result.files["checkpoint"])


def _hog_and_color(image: Array) -> Array:
    """Histograms of oriented gradients of 8 px cells at 64 px, and the mean colors of 4 x 4 parts, each of length one."""
    pixels = (
        np.asarray(Image.fromarray(image).resize((HOG_SIDE, HOG_SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
        / 255
    )
    vertical, horizontal = np.gradient(pixels.mean(axis=2))
    strength, angle = np.hypot(vertical, horizontal), np.arctan2(vertical, horizontal) % np.pi
    bins = np.minimum((angle / np.pi * ORIENTATIONS).astype(int), ORIENTATIONS - 1)
    cells = HOG_SIDE // HOG_CELL
    histogram = np.zeros((cells, cells, ORIENTATIONS), np.float32)
    rows, columns = np.indices(bins.shape) // HOG_CELL
    np.add.at(histogram, (rows, columns, bins), strength)
    histogram = np.sqrt(histogram / (np.linalg.norm(histogram, axis=2, keepdims=True) + 0.1)).ravel()
    colors = pixels.reshape(4, HOG_SIDE // 4, 4, HOG_SIDE // 4, 3).mean(axis=(1, 3)).ravel() - 0.5
    return np.concatenate([part / (np.linalg.norm(part) + 1e-6) for part in (histogram, 0.5 * colors)]).astype(
        np.float32
    )


def _flips(name: str, features: Array, labels: Array, seeds: list[int]) -> list[list[str]]:
    """A row for each ranking of planted wrong labels."""
    labels = in_columns(labels)[1]
    measured: dict[str, list[tuple[float, float, float, float]]] = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        flipped = rng.choice(len(labels), round(FLIPPED * len(labels)), replace=False)
        given, classes = labels.copy(), labels.max() + 1
        given[flipped] = (labels[flipped] + rng.integers(1, classes, len(flipped))) % classes
        wrong = np.isin(np.arange(len(labels)), flipped)
        for ranking, rank in RANKINGS.items():
            scores, called = rank(features, given)
            order = np.argsort(-scores, kind="stable")
            recall = np.nan if called is None else wrong[order[:called]].mean() * called / len(flipped)
            values = (wrong[order[: len(flipped)]].mean(), average_precision_score(wrong, scores),
                      np.nan if called is None else called, recall)  # fmt: skip
            measured.setdefault(ranking, []).append(values)
    rows = []
    for ranking, values in measured.items():
        precision, average, called, recall = np.mean(values, axis=0)
        said = ["-", "-"] if np.isnan(called) else [f"{called:.0f}", f"{recall:.3f}"]
        flips = round(FLIPPED * len(labels))
        rows.append(
            [f"{name} ({len(labels)} images, {flips} flips)", ranking, f"{precision:.3f}", f"{average:.3f}", *said]
        )
    return rows


_PREDICTED: list[Any] = []


def _scores(found: LabelSuspects, called: int) -> Ranking:
    scores = np.zeros(len(found.margin))
    order = found.order()
    scores[order] = np.arange(len(order), 0, -1)
    return scores, called


def _votes(features: Array, labels: Array) -> Ranking:
    found = label_suspects(features, labels)
    return _scores(found, found.count)


def _logistic(features: Array, labels: Array) -> Ranking:
    _PREDICTED[:] = out_of_fold(features, labels)
    found = probability_suspects(iter(_PREDICTED), labels)
    return _scores(found, found.count)


def _confident(features: Array, labels: Array) -> Ranking:
    """On the probabilities of `_logistic`, which comes before it."""
    return _scores(*confident_learning(iter(_PREDICTED), labels))


def _cleanlab_alone(features: Array, labels: Array) -> Ranking:
    from cleanlab.classification import CleanLearning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        issues = CleanLearning(seed=0).find_label_issues(features, labels)
    called = issues["is_label_issue"].to_numpy()
    return 1 - issues["label_quality"].to_numpy() + called, int(called.sum())


def _disagreement(features: Array, labels: Array) -> Ranking:
    rows = search(features, None, K)[1]
    share = (labels[rows] != labels[:, None]).mean(axis=1)
    return share, int((share > 0.5).sum())


RANKINGS: dict[str, Callable[[Array, Array], Ranking]] = {
    "suspects (neighbors)": _votes,
    "suspects --method logistic": _logistic,
    "suspects --method cleanlab": _confident,
    "cleanlab alone": _cleanlab_alone,
    f"share of the {K} neighbors with another label": _disagreement,
}


def _foreign(name: str, features: Array, labels: Array, seeds: list[int], pairs: int = 10) -> list[list[str]]:
    """A row for each score of how far an image is: how many of the planted foreign images are found."""
    measured: dict[str, list[tuple[int, int, int]]] = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for _ in range(pairs):
            host, other = rng.permutation(labels.max() + 1)[:2]
            planted = rng.choice(np.flatnonzero(labels == other), FOREIGN, replace=False)
            kept = np.flatnonzero((labels != other) | np.isin(np.arange(len(labels)), planted))
            is_foreign, given = np.isin(kept, planted), np.where(labels[kept] == other, host, labels[kept])
            found = outliers(features[kept], given)
            votes = label_suspects(features[kept], given)
            margin = np.where(np.isnan(votes.margin), 1, votes.margin)
            for score, values in (("distance within the class (class outlier)", found.class_ratio),
                                  ("distance to all (outlier)", found.distance),
                                  ("votes (likely wrong label)", -margin)):  # fmt: skip
                ranked = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
                in_class = ranked[given[ranked] == host]
                counts = [int(is_foreign[rows].sum()) for rows in (in_class[:10], in_class[:20], ranked[:20])]
                measured.setdefault(score, []).append((counts[0], counts[1], counts[2]))
    return [[name, score, *(f"{count:.1f} of {FOREIGN}" for count in np.mean(values, axis=0))]
            for score, values in measured.items()]  # fmt: skip


if __name__ == "__main__":
    run(main)
