"""kNN classification of M queries against a bank of N features, by ours and by what the field uses, on the CPU.

Every line gives the same answer: k = 200, T = 0.07, cosine, 100 classes, from L2-normalized float32 arrays in memory. The
limit is the time of the bare products at the best speed at which MKL or oneDNN multiplies matrices here.

DINO's and solo-learn's functions come from clones that are not part of this repository: --dino DIR, --solo DIR.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from report import write_table
from threadpoolctl import threadpool_limits

from simsiam_eval.features.unit_length import l2_normalized
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.votes import weighted_vote

K, T, CLASSES = 200, 0.07, 100
CASES = ((50_000, 512, 5000), (50_000, 2048, 2000), (200_000, 512, 2000), (200_000, 2048, 800))
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def made(rows: int, width: int, queries: int) -> Arrays:
    """Features around class centers, near enough to each other that neighbors disagree."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CLASSES, width), dtype=np.float32)
    labels = rng.integers(0, CLASSES, rows + queries)
    features = rng.standard_normal((rows + queries, width), dtype=np.float32)
    for start in range(0, len(features), 10_000):
        features[start : start + 10_000] = l2_normalized(
            features[start : start + 10_000] * 8 + centers[labels[start : start + 10_000]]
        )
    return features[:rows], labels[:rows], features[rows:]


def ours(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    similarities, rows = search(bank, queries, K)
    return weighted_vote(similarities, labels[rows], T, top=1)[:, 0]


def faiss_flat(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    similarities, rows = index.search(queries, K)
    return weighted_vote(similarities, labels[rows], T, top=1)[:, 0]


def scikit_learn(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier

    # Its Euclidean search is several times faster than its cosine one, and on unit vectors the same order.
    model = KNeighborsClassifier(K, weights=lambda far: np.exp((1 - far**2 / 2) / T), algorithm="brute")
    return model.fit(bank, labels).predict(queries)


def lightly(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    from lightly.utils.benchmarking import knn_predict

    columns, names = torch.from_numpy(bank).T, torch.from_numpy(labels)
    blocks = torch.from_numpy(queries).split(256)  # as its online evaluator calls it, a batch at a time
    return torch.cat([knn_predict(block, columns, names, CLASSES, K, T)[:, 0] for block in blocks]).numpy()


def dino(folder: Path) -> Classifier:
    """Its function counts what is right and keeps no predictions: the share is what can be compared."""
    sys.modules.setdefault("vision_transformer", types.ModuleType("vision_transformer"))
    utils = types.ModuleType("utils")
    utils.bool_flag = bool  # type: ignore[attr-defined]
    sys.modules.setdefault("utils", utils)
    spec = importlib.util.spec_from_file_location("eval_knn", folder / "eval_knn.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]

    def classify(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        given = (torch.from_numpy(one) for one in (bank, labels, queries, CHECK["truth"]))
        return np.array(module.knn_classifier(*given, K, T, num_classes=CLASSES)[0])

    return classify


def solo(folder: Path) -> Classifier:
    spec = importlib.util.spec_from_file_location("solo_knn", folder / "solo" / "utils" / "knn.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    # Its constructor passes an argument that torchmetrics no longer has; `compute` reads the attributes below only.
    compute = module.WeightedKNNClassifier.compute

    def classify(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        given = {
            "train_features": bank,
            "train_targets": labels,
            "test_features": queries,
            "test_targets": CHECK["truth"],
        }
        state = types.SimpleNamespace(
            **{name: [torch.from_numpy(one)] for name, one in given.items()},
            k=K, T=T, max_distance_matrix_size=int(5e6), distance_fx="cosine", epsilon=1e-5, reset=lambda: None,
        )  # fmt: skip
        return np.array(compute(state)[0])

    return classify


CHECK: dict[str, np.ndarray] = {}


def products(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: tuple[int, int]) -> Classifier:
    """Nothing but the similarities, block by block."""

    def classify(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        for some in torch.from_numpy(queries).split(shape[0]):
            for rows in torch.from_numpy(bank).split(shape[1]):
                multiply(some, rows)
        return CHECK["truth"]

    return classify


# What the machine can do at best: the fastest of these.
LIMITS = {
    f"the products alone ({shape[0]} x {shape[1]})": products(lambda a, b: a @ b.T, shape)
    for shape in ((1536, 2048), (256, 16384))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--dino", type=Path, help="folder of eval_knn.py")
    parser.add_argument("--solo", type=Path, help="folder of solo-learn's repository")
    parser.add_argument("--scale", type=float, default=1, help="of the number of queries")
    asked = parser.parse_args()
    for variable in (
        "OPENBLAS_CORETYPE",
        "OPENBLAS_L2_SIZE",
    ):  # old OpenBLAS builds need them; FAISS and NumPy get slow
        if variable in os.environ:
            parser.error(f"unset {variable} first: env -u {variable} python {sys.argv[0]}")
    runs: dict[str, Classifier] = LIMITS | {"ours": ours, "FAISS IndexFlatIP": faiss_flat, "lightly": lightly}
    if asked.dino:
        runs["DINO"] = dino(asked.dino)
    if asked.solo:
        runs["solo-learn"] = solo(asked.solo)
    runs["scikit-learn"] = scikit_learn
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    rows = []
    for size, width, queries in CASES:
        bank, labels, test = made(size, width, int(queries * asked.scale))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        CHECK["truth"] = ours(bank, labels, test)
        agreed = {}
        for _ in range(asked.repetitions):
            for name, run in runs.items():
                started = time.perf_counter()
                with threadpool_limits(threads):
                    found = run(bank, labels, test)
                seconds[name].append(time.perf_counter() - started)
                # Two of them return the share of right answers in percent, here that of agreement with ours.
                agreed[name] = float(found) / 100 if found.ndim == 0 else float((found == CHECK["truth"]).mean())
        middle = {name: statistics.median(took) for name, took in seconds.items()}
        limit = min(LIMITS, key=lambda name: middle[name])
        rows.append([f"{size} x {width}", str(len(test)), limit, f"{middle[limit]:.2f}", "1.00", "-"])
        for name in [name for name in runs if name not in LIMITS]:
            share = middle[limit] / middle[name]
            rows.append(["", "", name, f"{middle[name]:.2f}", f"{share:.2f}", f"{agreed[name]:.4f}"])
        print(*rows[len(LIMITS) - 1 - len(runs) :], sep="\n", flush=True)
    write_table(
        "knn_speed",
        "kNN classification on the CPU: search and vote",
        ("bank", "queries", "who", "seconds", "of the limit", "same answer as ours"),
        rows,
        [
            f"{threads} threads; k {K}, T {T}, {CLASSES} classes; "
            f"medians of {asked.repetitions} interleaved repetitions. The limit: the fastest of "
            f"{len(LIMITS)} ways to multiply alone, timed in the same rounds. Load before it: {LOAD:.2f}."
        ],
    )


LOAD = os.getloadavg()[0]

if __name__ == "__main__":
    main()
