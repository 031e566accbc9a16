"""`knn`: the weighted k-nearest-neighbour classifier on frozen features (InstDisc, Wu et al. 2018)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from simsiam_eval.result import Result, Table, percent, provenance
from simsiam_eval.settings import EvaluationSettings, setting


@dataclass(frozen=True, kw_only=True)
class KnnSettings(EvaluationSettings):
    """Classify the test set by a weighted vote of its nearest training features (cosine, exact search)."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "dino": {"k": (20, 200), "temperature": 0.07},
        "instdisc": {"k": (200,), "temperature": 0.07},
        "simsiam": {"k": (200,), "temperature": 0.2},
        "lightly": {"k": (200,), "temperature": 0.1},
    }

    preset: str = setting("dino", choices=tuple(PRESETS), help="Protocol: whose k and temperature.")
    k: tuple[int, ...] = setting(
        by_preset=True, short="-k", at_least=1, help="Neighbours that vote; may be given several times."
    )
    temperature: float = setting(by_preset=True, above=0, help="T of the vote's weight exp(similarity / T).")


def knn(settings: KnnSettings) -> Result:
    """Run `knn`. With the same images as bank and queries, each is left out of its own neighbours.

    `top1` and `top5` of the record are those of the first k; all are under `by_k`.

    Raises:
        UsageError, DataError: the features cannot be used.
    """
    from simsiam_eval.feature_cache import described_features, same_rows, train_and_test_features
    from simsiam_eval.neighbours import search, weighted_vote
    from simsiam_eval.progress import say
    from simsiam_eval.statistics import accuracy_metrics

    started = time.perf_counter()
    bank, queries = train_and_test_features(settings)
    leave_one_out = same_rows(bank, queries)
    available = len(bank.features) - leave_one_out
    similarities, rows = search(bank.features, None if leave_one_out else queries.features, max(settings.k))
    labels, classes = bank.labels[rows], len(set(bank.labels.tolist()))
    by_k: dict[str, Any] = {}
    for k in settings.k:
        if k > available:
            say(f"k = {k}: the bank has only {available} neighbours, all of them vote.")
        guesses = weighted_vote(similarities[:, :k], labels[:, :k], settings.temperature)
        right = guesses == queries.labels[:, None]
        by_k[str(k)] = {"k_used": min(k, available)} | accuracy_metrics("top1", int(right[:, 0].sum()), len(right))
        if classes > 5:  # with fewer classes every guess is among the first five
            by_k[str(k)] |= accuracy_metrics("top5", int(right.any(axis=1).sum()), len(right))
    first = {name: value for name, value in by_k[str(settings.k[0])].items() if name != "k_used"}
    table = Table(
        f"kNN, T = {settings.temperature:g}, {len(bank.features)} in the bank, {len(queries.features)} queries"
        + (", leave-one-out" if leave_one_out else ""),
        ("k", "top-1 % [95 %]", "top-5 % [95 %]"),
        [
            [k, percent(one["top1"], one["top1_interval"]),
             percent(one["top5"], one["top5_interval"]) if "top5" in one else "-"]
            for k, one in by_k.items()
        ],
    )  # fmt: skip
    return Result(
        task="knn",
        protocol=settings.preset,
        settings=settings.to_dict(),
        metrics={**first, "k": settings.k[0], "by_k": by_k, "images": len(queries.features), "classes": classes},
        provenance=provenance(
            started,
            leave_one_out=leave_one_out,
            train=described_features(bank),
            test=described_features(queries),
        ),
        table=table,
    )
