"""`knn`: the weighted k-nearest-neighbor classifier on frozen features (InstDisc, Wu et al. 2018)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import SeedSettings, setting
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.settings import EvaluationSettings
from simsiam_eval.wording import counted, percent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from simsiam_eval.features.table import Features
    from simsiam_eval.neighbors.approximate import NeighborIndex

Pair = tuple[int, float | None]  # k and T; no T where all votes are equal


@dataclass(frozen=True, kw_only=True)
class KnnSettings(EvaluationSettings, SeedSettings):
    """Classify the test set by a vote of its nearest training features, found exactly unless --index is given."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "dino": {"k": (20, 200), "temperature": (0.07,)},
        "instdisc": {"k": (200,), "temperature": (0.07,)},
        "simsiam": {"k": (200,), "temperature": (0.2,)},
        "lightly": {"k": (200,), "temperature": (0.1,)},
    }
    GROUPS: ClassVar[dict[str, str]] = {
        "sweep": "sweep sweep_k sweep_temperature held_out",
        "index": "index index_parameters recall_sample",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--train train.h5 --test test.h5 -k 20,200",
        "--train train.h5 --test test.h5 --sweep",
    )

    preset: str = setting("dino", choices=tuple(PRESETS), help="Protocol: whose k and temperature.")
    k: tuple[int, ...] = setting(
        by_preset=True,
        short="-k",
        at_least=1,
        once=True,
        help="Neighbors that vote. Several: one search serves them all.",
    )
    temperature: tuple[float, ...] = setting(
        by_preset=True,
        above=0,
        once=True,
        help="T of the vote's weight exp(similarity / T). Several: one row of the table each.",
    )
    vote: str = setting("weighted", choices=("weighted", "majority"), help="weighted by T, or one neighbor one vote.")
    metric: str = setting(
        "cosine", choices=("cosine", "l2"), help="Similarity: the cosine, or l2: minus half the squared distance."
    )
    sweep: bool = setting(
        False, help="Choose k and T on a part held out of the training set, and report that pair alone on the test set."
    )
    sweep_k: tuple[int, ...] = setting(
        (1, 5, 10, 20, 50, 100, 200), at_least=1, once=True, help="The k that --sweep tries."
    )
    sweep_temperature: tuple[float, ...] = setting(
        (0.03, 0.05, 0.07, 0.1, 0.2, 0.5), above=0, once=True, help="The T that --sweep tries."
    )
    held_out: float = setting(0.1, above=0, at_most=0.5, help="Share of each training class that --sweep holds out.")
    index: str | None = setting(
        None,
        help="Approximate search by a FAISS factory string, such as IVF4096,Flat or HNSW32; the number is then marked as "
        "approximate, with its recall. Default: exact.",
    )
    index_parameters: str | None = setting(None, help="FAISS's search parameters, such as nprobe=32 or efSearch=128.")
    recall_sample: int = setting(1000, at_least=1, help="Queries on which an approximate index is measured.")

    def check(self) -> None:
        super().check()
        if self.index_parameters is not None and self.index is None:
            raise UsageError(
                f"--index-parameters {self.index_parameters} needs --index: without it the search is exact."
            )
        own = self.PRESETS[self.preset]
        if self.sweep and any(getattr(self, name) != own[name] for name in own):
            raise UsageError(
                "--sweep chooses k and T: give --sweep-k and --sweep-temperature, not -k and --temperature."
            )
        if not self.sweep:
            self.reject_given(("sweep_k", "sweep_temperature", "held_out"), "is of --sweep: give that too")
        if self.index is None:
            self.reject_given(("recall_sample",), "is of --index: give that too")
        if self.vote == "majority":
            self.reject_given(("temperature", "sweep_temperature"), "is of the weighted vote, not of --vote majority")

    def changed(self) -> list[str]:
        """As Settings'; a sweep, another vote and another metric too."""
        own = {"sweep": False, "vote": "weighted", "metric": "cosine"}
        return [*super().changed(), *(name for name, value in own.items() if getattr(self, name) != value)]


def knn(settings: KnnSettings) -> Result:
    """Run `knn`. With the same images as bank and queries, each is left out of its own neighbors.

    `top1` and `top5` of the record are those of the first k and T; those of the first T are under `by_k`, all under
    `grid`.

    Raises:
        UsageError, DataError: the features cannot be used.
    """
    from simsiam_eval.extraction.sets import train_and_test_features
    from simsiam_eval.features.compatibility import described_features, same_rows
    from simsiam_eval.neighbors.classify import classify
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    device = resolve_device(settings.device)
    bank, queries = train_and_test_features(
        settings.train, settings.test, settings.checkpoint, settings.extraction(), device, on_disk=True
    )
    leave_one_out = same_rows(bank, queries)
    if len(bank.labels) == leave_one_out:
        raise DataError(f"{bank.path} has one labeled image: with itself left out it has no neighbor.")
    ks, temperatures, sweep = settings.k, _temperatures(settings.vote, settings.temperature), None
    if settings.sweep:
        sweep = _sweep(settings, bank, device)
        ks, temperatures = (sweep["k"],), (sweep["temperature"],)
    asked, index, quality = None if leave_one_out else queries, None, None
    if settings.index:
        index, quality = _index(settings, bank, asked, max(ks), device)
    predicted = classify(
        bank.features,
        bank.labels,
        None if leave_one_out else queries.features,
        ks,
        temperatures,
        settings.metric,
        device,
        index=index,
    )
    ranked, nearest = predicted.ranked, predicted.nearest
    grid = _grid(ranked, queries.labels, len(set(bank.labels.tolist())), len(bank.labels) - leave_one_out)
    first = {name: value for name, value in grid[0].items() if name != "k_used"}
    leakage = _leakage(
        settings, bank, asked, None if index else nearest, next(iter(ranked.values()))[:, 0] == queries.labels
    )
    by_k = {
        str(one["k"]): {name: value for name, value in one.items() if name not in ("k", "temperature")}
        for one in grid
        if one["temperature"] == grid[0]["temperature"]
    }
    return Result(
        task="knn",
        protocol=settings.protocol(),
        settings=settings.to_dict(),
        metrics={
            **first, "by_k": by_k, "grid": grid, "sweep": sweep, "index": quality, "leakage": leakage,
            "images": len(queries.labels),
            "classes": len(set(bank.labels.tolist())),
        },
        provenance=provenance(
            started,
            str(device),
            leave_one_out=leave_one_out,
            train=described_features(bank),
            test=described_features(queries),
        ),
        table=_table(settings, grid, sweep, quality, leakage, len(bank.labels), len(queries.labels), leave_one_out),
    )  # fmt: skip


def _temperatures(vote: str, temperatures: tuple[float, ...]) -> tuple[float | None, ...]:
    return temperatures if vote == "weighted" else (None,)


def _leakage(
    settings: KnnSettings,
    bank: Features,
    queries: Features | None,
    nearest: NDArray[np.float32] | None,
    right: NDArray[np.bool_],
) -> dict[str, Any] | None:
    """What rests on near-duplicates of the first k and T's accuracy; None: nothing.

    Args:
        nearest: (M,) similarity of the nearest neighbor, by the metric of the settings; None: only an index knows it.
    """
    from simsiam_eval.neighbors.duplicates import leakage_metrics, nearest_similarities
    from simsiam_eval.runtime.device import resolve_device

    count = len(right)
    if nearest is None or settings.metric != "cosine":
        asked = None if queries is None else queries.features
        rows, nearest = nearest_similarities(bank.features, asked, settings.seed, resolve_device(settings.device))
        right = right[rows]
    return leakage_metrics(nearest, right, settings.leakage, count)


def _index(
    settings: KnnSettings, bank: Features, queries: Features | None, k: int, device: torch.device
) -> tuple[NeighborIndex, dict[str, Any]]:
    """The index of --index, from the cache where it was trained before, and how good it is."""
    from simsiam_eval.neighbors.approximate import cached_index
    from simsiam_eval.neighbors.recall import exact_sample, index_quality

    assert settings.index is not None
    index = cached_index(bank.features, settings.index, settings.metric, settings.seed)
    parameters = index.set_parameters(settings.index_parameters, k)
    asked = None if queries is None else queries.features
    exact = exact_sample(bank.features, asked, k, settings.metric, settings.recall_sample, settings.seed, device)
    return index, index_quality(index, bank.features, exact) | {"parameters": parameters}


def _grid(
    ranked: dict[Pair, NDArray[np.int64]], labels: NDArray[np.int64], classes: int, available: int
) -> list[dict[str, Any]]:
    """Each k and T with its accuracies."""
    from simsiam_eval.metrics.intervals import accuracy_metrics
    from simsiam_eval.runtime.progress import say

    grid = []
    for (k, temperature), guesses in ranked.items():
        if k > available and temperature == next(iter(ranked))[1]:
            say(f"k = {k}: the bank has only {available} neighbors, all of them vote.")
        right = guesses == labels[:, None]
        one: dict[str, Any] = {"k": k, "temperature": temperature, "k_used": min(k, available)}
        one |= accuracy_metrics("top1", int(right[:, 0].sum()), len(right))
        if classes > 5:  # with fewer classes every guess is among the first five
            one |= accuracy_metrics("top5", int(right.any(axis=1).sum()), len(right))
        grid.append(one)
    return grid


def _sweep(settings: KnnSettings, bank: Features, device: torch.device) -> dict[str, Any]:
    """The best pair on a part of every class held out of the bank, the rest being the bank (design, contract 5).

    Of equals the first in the order of the settings is taken.

    Raises:
        DataError: every class has one image only, so that none can be held out.
    """
    from simsiam_eval.features.splits import hold_out
    from simsiam_eval.neighbors.classify import classify

    kept, held = hold_out(bank.labels, settings.held_out, settings.seed)
    smaller, asked = bank.subset(kept), bank.subset(held)
    temperatures = _temperatures(settings.vote, settings.sweep_temperature)
    ranked = classify(
        smaller.features, smaller.labels, asked.features, settings.sweep_k, temperatures, settings.metric, device
    ).ranked
    tried: list[dict[str, Any]] = [
        {"k": k, "temperature": t, "held_out_top1": float((guesses[:, 0] == asked.labels).mean())}
        for (k, t), guesses in ranked.items()
    ]
    return max(tried, key=lambda one: one["held_out_top1"]) | {"held_out_images": len(held), "tried": tried}


def _table(
    settings: KnnSettings,
    grid: list[dict[str, Any]],
    sweep: dict[str, Any] | None,
    quality: dict[str, Any] | None,
    leakage: dict[str, Any] | None,
    bank: int,
    queries: int,
    leave_one_out: bool,
) -> Table:
    notes = []
    if sweep is not None:
        notes.append(
            f"k and T are the best of {len(sweep['tried'])} pairs on {sweep['held_out_images']} images held out of the "
            f"training set ({percent(sweep['held_out_top1'])} % there)"
            + ("; with leave-one-out they are counted here too." if leave_one_out else ".")
        )
    if quality is not None:
        notes.append(
            f"{'Exact' if quality['exact'] else 'Approximate'}: {quality['index']} finds {quality['recall']:.4f} of the "
            f"{quality['k']} exact neighbors (sample: {quality['sample']} queries), at "
            f"{quality['queries_per_second']:.0f} queries/s (exact: "
            f"{quality['exact_queries_per_second']:.0f}) and {quality['bytes_per_row']:.0f} bytes a row."
        )
    if leakage is not None:
        from simsiam_eval.neighbors.duplicates import leakage_warning

        notes.append(leakage_warning(leakage))
    return Table(
        f"kNN{'' if quality is None or quality['exact'] else ' (approximate)'}, {settings.vote} votes, {settings.metric}, "
        f"{bank} in the bank, {counted(queries, 'query')}"
        + (", leave-one-out" if leave_one_out else ""),
        ("k", "T", "top-1 % [95 %]", "top-5 % [95 %]"),
        [
            [str(one["k"]), "-" if one["temperature"] is None else f"{one['temperature']:g}",
             percent(one["top1"], one["top1_interval"]),
             percent(one["top5"], one["top5_interval"]) if "top5" in one else "-"]
            for one in grid
        ],
        notes,
    )  # fmt: skip
