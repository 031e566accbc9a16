"""kNN classification on the CPU: our search and vote compared with other implementations.

All implementations solve the same task: k = 200, T = 0.07, cosine, 100 classes, on L2-normalized float32 arrays in
memory. The upper bound on speed is the matrix products alone, by torch.mm with the faster of two block shapes.

DINO's and solo-learn's functions are imported from local clones of their repositories: --dino DIR, --solo DIR.
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


def make_data(rows: int, width: int, queries: int) -> Arrays:
    """Features around class centers that are close enough for neighbors to disagree."""
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

    # On unit vectors Euclidean search gives the same order as cosine search, several times faster.
    model = KNeighborsClassifier(K, weights=lambda distances: np.exp((1 - distances**2 / 2) / T), algorithm="brute")
    return model.fit(bank, labels).predict(queries)


def lightly(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    from lightly.utils.benchmarking import knn_predict

    bank_columns, targets = torch.from_numpy(bank).T, torch.from_numpy(labels)
    blocks = torch.from_numpy(queries).split(256)  # one batch at a time, as lightly's online evaluator calls it
    return torch.cat([knn_predict(block, bank_columns, targets, CLASSES, K, T)[:, 0] for block in blocks]).numpy()


def dino(folder: Path) -> Classifier:
    """DINO's function returns its accuracy, not its predictions, so only the accuracy can be compared."""
    sys.modules.setdefault("vision_transformer", types.ModuleType("vision_transformer"))
    utils = types.ModuleType("utils")
    utils.bool_flag = bool  # type: ignore[attr-defined]
    sys.modules.setdefault("utils", utils)
    spec = importlib.util.spec_from_file_location("eval_knn", folder / "eval_knn.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]

    def classify(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        arguments = (torch.from_numpy(array) for array in (bank, labels, queries, CHECK["truth"]))
        return np.array(module.knn_classifier(*arguments, K, T, num_classes=CLASSES)[0])

    return classify


def solo(folder: Path) -> Classifier:
    spec = importlib.util.spec_from_file_location("solo_knn", folder / "solo" / "utils" / "knn.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    # The constructor passes an argument that torchmetrics no longer accepts; `compute` only reads the attributes below.
    compute = module.WeightedKNNClassifier.compute

    def classify(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        arrays = {
            "train_features": bank,
            "train_targets": labels,
            "test_features": queries,
            "test_targets": CHECK["truth"],
        }
        state = types.SimpleNamespace(
            **{name: [torch.from_numpy(array)] for name, array in arrays.items()},
            k=K, T=T, max_distance_matrix_size=int(5e6), distance_fx="cosine", epsilon=1e-5, reset=lambda: None,
        )  # fmt: skip
        return np.array(compute(state)[0])

    return classify


CHECK: dict[str, np.ndarray] = {}


def products(shape: tuple[int, int]) -> Classifier:
    """The matrix products alone, in blocks of shape[0] queries by shape[1] rows of the bank."""

    def classify(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        for query_block in torch.from_numpy(queries).split(shape[0]):
            for bank_block in torch.from_numpy(bank).split(shape[1]):
                torch.mm(query_block, bank_block.T)
        return CHECK["truth"]

    return classify


# The faster of these is the upper bound on speed.
LIMITS = {f"the products alone ({shape[0]} x {shape[1]})": products(shape) for shape in ((1536, 2048), (256, 16384))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2, help="Number of repetitions.")
    parser.add_argument("--dino", type=Path, help="Folder of DINO's eval_knn.py.")
    parser.add_argument("--solo", type=Path, help="Folder of solo-learn's repository.")
    parser.add_argument("--scale", type=float, default=1, help="Factor on the number of queries.")
    args = parser.parse_args()
    # Workarounds for old OpenBLAS builds, which slow down FAISS and NumPy.
    for variable in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if variable in os.environ:
            parser.error(f"unset {variable} first: env -u {variable} python {sys.argv[0]}")
    runs: dict[str, Classifier] = LIMITS | {"ours": ours, "FAISS IndexFlatIP": faiss_flat, "lightly": lightly}
    if args.dino:
        runs["DINO"] = dino(args.dino)
    if args.solo:
        runs["solo-learn"] = solo(args.solo)
    runs["scikit-learn"] = scikit_learn
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    rows = []
    for size, width, queries in CASES:
        bank, labels, test = make_data(size, width, int(queries * args.scale))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        CHECK["truth"] = ours(bank, labels, test)
        agreement = {}
        for _ in range(args.repetitions):
            for name, run in runs.items():
                started = time.perf_counter()
                with threadpool_limits(threads):
                    predicted = run(bank, labels, test)
                seconds[name].append(time.perf_counter() - started)
                # DINO and solo-learn return an accuracy in percent, which is the agreement with ours here.
                agreement[name] = (
                    float(predicted) / 100 if predicted.ndim == 0 else float((predicted == CHECK["truth"]).mean())
                )
        medians = {name: statistics.median(measured) for name, measured in seconds.items()}
        limit = min(LIMITS, key=lambda name: medians[name])
        rows.append([f"{size} x {width}", str(len(test)), limit, f"{medians[limit]:.2f}", "1.00", "-"])
        for name in [name for name in runs if name not in LIMITS]:
            share = medians[limit] / medians[name]
            rows.append(["", "", name, f"{medians[name]:.2f}", f"{share:.2f}", f"{agreement[name]:.4f}"])
        print(*rows[len(LIMITS) - 1 - len(runs) :], sep="\n", flush=True)
    write_table(
        "knn_speed",
        "kNN classification on the CPU: search and vote",
        ("bank", "queries", "implementation", "seconds", "vs. products alone", "agreement with ours"),
        rows,
        [
            f"{threads} threads; k {K}, T {T}, {CLASSES} classes; "
            f"medians of {args.repetitions} interleaved repetitions. The products alone: torch.mm "
            f"with the faster of {len(LIMITS)} block shapes, timed in the same rounds. Load average at start: {LOAD:.2f}."
        ],
    )


LOAD = os.getloadavg()[0]

if __name__ == "__main__":
    main()
