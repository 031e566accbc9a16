"""`knn`: weighted k-nearest-neighbor classification on frozen features (InstDisc, Wu et al. 2018)."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import SeedSettings, setting
from simsiam_eval.commands.unreadable import unreadable_faults
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EvaluationSettings
from simsiam_eval.wording import percent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from simsiam_eval.features.rows import FeatureMatrix
    from simsiam_eval.features.table import Features
    from simsiam_eval.neighbors.approximate import NeighborIndex
    from simsiam_eval.neighbors.classify import Pair
    from simsiam_eval.neighbors.leakage import Leakage
    from simsiam_eval.neighbors.recall import IndexQuality


@dataclass(frozen=True, kw_only=True)
class KnnSettings(EvaluationSettings, SeedSettings):
    """Classify test images by a weighted vote of their nearest training features (exact search unless --index is given)."""

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

    preset: str = setting("dino", choices=tuple(PRESETS), help="Protocol that sets k and temperature.")
    k: tuple[int, ...] = setting(
        by_preset=True,
        short="-k",
        at_least=1,
        once=True,
        help="Number of neighbors; comma-separated for several.",
    )
    temperature: tuple[float, ...] = setting(
        by_preset=True,
        above=0,
        once=True,
        help="Temperature T of the weights exp(similarity / T); comma-separated for several.",
    )
    vote: str = setting(
        "weighted", choices=("weighted", "majority"), help="Weighted by similarity, or one vote per neighbor."
    )
    metric: str = setting(
        "cosine", choices=("cosine", "l2"), help="Cosine similarity, or l2: minus half the squared Euclidean distance."
    )
    sweep: bool = setting(
        False, help="Choose k and T on held-out training images and report only that pair on the test set."
    )
    sweep_k: tuple[int, ...] = setting(
        (1, 5, 10, 20, 50, 100, 200), at_least=1, once=True, help="Values of k for --sweep."
    )
    sweep_temperature: tuple[float, ...] = setting(
        (0.03, 0.05, 0.07, 0.1, 0.2, 0.5), above=0, once=True, help="Values of T for --sweep."
    )
    held_out: float = setting(0.1, above=0, at_most=0.5, help="Fraction of each training class held out for --sweep.")
    index: str | None = setting(
        None,
        help="FAISS factory string for approximate search, such as IVF4096,Flat or HNSW32; its recall is reported. "
        "Default: exact search.",
    )
    index_parameters: str | None = setting(
        None, help="FAISS search parameters of --index, such as nprobe=32 or efSearch=128."
    )
    recall_sample: int = setting(1000, at_least=1, help="Number of queries used to measure the recall of --index.")

    def check(self) -> None:
        super().check()
        if self.index_parameters is not None and self.index is None:
            raise UsageError(f"--index-parameters {self.index_parameters} requires --index.")
        preset = self.PRESETS[self.preset]
        if self.sweep and any(getattr(self, name) != preset[name] for name in preset):
            raise UsageError(
                "--sweep chooses k and T; use --sweep-k and --sweep-temperature, not -k and --temperature."
            )
        if not self.sweep:
            self.reject_given(("sweep_k", "sweep_temperature", "held_out"), "requires --sweep")
        if self.index is None:
            self.reject_given(("recall_sample",), "requires --index")
        if self.vote == "majority":
            self.reject_given(("temperature", "sweep_temperature"), "cannot be used with --vote majority")

    def changed(self) -> list[str]:
        """Also a sweep, another vote or another metric."""
        defaults = {"sweep": False, "vote": "weighted", "metric": "cosine"}
        return [*super().changed(), *(name for name, value in defaults.items() if getattr(self, name) != value)]


def knn(settings: KnnSettings) -> Result:
    """Run `knn`. Where bank and queries are the same images, each is left out of its own neighbors; so
    is each image that is in both sets.

    `top1` and `top5` of the record are those of the first k and T; those of the first T are under `by_k`, all under
    `grid`.

    Raises:
        UsageError, DataError: the features cannot be used.
    """
    from simsiam_eval.extraction.sets import train_and_test_features
    from simsiam_eval.features.compatibility import described_features, own_note, own_rows, same_rows
    from simsiam_eval.neighbors.classify import classify, report_few_neighbors
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    device = resolve_device(settings.device)
    bank, queries = train_and_test_features(
        settings.train, settings.test, settings.given_encoder(), settings.extraction(), device, on_disk=True
    )
    ks, temperatures = settings.k, _temperatures(settings.vote, settings.temperature)
    sweep = None
    if settings.sweep:
        sweep = _sweep(
            bank,
            settings.sweep_k,
            _temperatures(settings.vote, settings.sweep_temperature),
            settings.metric,
            device,
            held_out=settings.held_out,
            seed=settings.seed,
        )
        ks, temperatures = (sweep.best.k,), (sweep.best.temperature,)
    same = same_rows(bank, queries)
    own = None if same else own_rows(bank, queries)
    report_few_neighbors(ks, len(bank.labels) - same)
    query_features = None if same else queries.features
    index, quality = None, None
    if settings.index is not None:
        index, quality = _open_index(
            bank.features,
            query_features,
            max(ks),
            IndexChoice(
                settings.index, settings.index_parameters, settings.metric, settings.recall_sample, settings.seed
            ),
            device,
        )
    predicted = classify(
        bank.features, bank.labels, query_features, ks, temperatures, settings.metric, device, index=index, own=own
    )
    classes = len(set(bank.labels.tolist()))
    grid = _accuracies(predicted.ranked, queries.labels, classes, len(bank.labels) - same)
    # Only an exact search by cosine has found the similarity of the nearest neighbor on its way.
    nearest = predicted.nearest if index is None and settings.metric == "cosine" else None
    correct = next(iter(predicted.ranked.values()))[:, 0] == queries.labels
    leakage = _leakage(bank.features, query_features, nearest, correct, settings.leakage, settings.seed, device)
    return Result(
        task="knn",
        protocol=settings.protocol(),
        settings=settings.to_dict(),
        metrics={
            **grid[0].without("k_used"),
            "by_k": {str(row.k): row.without("k", "temperature") for row in grid if row.temperature == temperatures[0]},
            "grid": [row.to_dict() for row in grid],
            "sweep": sweep and sweep.to_dict(),
            "index": quality and quality.to_dict(),
            "leakage": leakage and leakage.to_dict(),
            "images": len(queries.labels),
            "classes": classes,
        },
        provenance=provenance(
            started,
            str(device),
            leave_one_out=same,
            **({} if own is None else {"left_out_of_own_neighbors": int((own >= 0).sum())}),
            train=described_features(bank),
            test=described_features(queries),
        ),
        faults=unreadable_faults([bank.read_images, queries.read_images], settings.max_unreadable),
        table=Table(
            f"kNN{'' if quality is None or quality.exact else ' (approximate)'}, {settings.vote} vote, {settings.metric}, "
            f"{len(bank.labels):,} training features, {len(queries.labels):,} test images"
            + (", leave-one-out" if same else ""),
            ("k", "T", "top-1 % [95 %]", "top-5 % [95 %]"),
            [row.cells() for row in grid],
            own_note(own) + _notes(sweep, quality, leakage, same),
        ),
    )


def _temperatures(vote: str, temperatures: tuple[float, ...]) -> tuple[float | None, ...]:
    return temperatures if vote == "weighted" else (None,)


@dataclass(frozen=True)
class VoteAccuracy:
    """Accuracy of one k and T; `k_used` is smaller than k where the bank is."""

    k: int
    temperature: float | None
    k_used: int
    metrics: dict[str, float | list[float]]

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        return {"k": self.k, "temperature": self.temperature, "k_used": self.k_used, **self.metrics}

    def without(self, *names: str) -> dict[str, Any]:
        """`to_dict` less some of its keys."""
        return {name: value for name, value in self.to_dict().items() if name not in names}

    def cells(self) -> list[str]:
        """Row of the table."""
        from simsiam_eval.metrics.accuracy import accuracy_cell

        temperature = "-" if self.temperature is None else f"{self.temperature:g}"
        return [str(self.k), temperature, accuracy_cell(self.metrics, "top1"), accuracy_cell(self.metrics, "top5")]


@dataclass(frozen=True)
class HeldOutAccuracy:
    """Top-1 accuracy of one k and T on the held-out images."""

    k: int
    temperature: float | None
    held_out_top1: float


@dataclass(frozen=True)
class Sweep:
    """The choice of k and T on `images` held-out training images; the first of equally good pairs is the best."""

    tried: tuple[HeldOutAccuracy, ...]
    images: int

    @property
    def best(self) -> HeldOutAccuracy:
        return max(self.tried, key=lambda pair: pair.held_out_top1)

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        return asdict(self.best) | {"held_out_images": self.images, "tried": [asdict(pair) for pair in self.tried]}


@dataclass(frozen=True)
class IndexChoice:
    """An approximate index to search with, and the queries on which to measure its recall."""

    factory: str
    parameters: str | None
    metric: str
    recall_sample: int
    seed: int


def _sweep(
    bank: Features,
    ks: tuple[int, ...],
    temperatures: tuple[float | None, ...],
    metric: str,
    device: torch.device,
    *,
    held_out: float,
    seed: int,
) -> Sweep:
    """Choose k and T on held-out bank rows, with the rest as the bank, without using the test images.

    Raises:
        DataError: every class has one image only, so that none can be held out.
    """
    from simsiam_eval.features.splits import hold_out
    from simsiam_eval.neighbors.classify import classify

    kept_rows, held_out_rows = hold_out(bank.labels, held_out, seed)
    kept, held = bank.subset(kept_rows), bank.subset(held_out_rows)
    ranked = classify(kept.features, kept.labels, held.features, ks, temperatures, metric, device).ranked
    return Sweep(
        tuple(
            HeldOutAccuracy(k, temperature, float((guesses[:, 0] == held.labels).mean()))
            for (k, temperature), guesses in ranked.items()
        ),
        len(held_out_rows),
    )


def _open_index(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    k: int,
    choice: IndexChoice,
    device: torch.device,
) -> tuple[NeighborIndex, IndexQuality]:
    """The index, from the cache if it was built before, and its recall."""
    from simsiam_eval.neighbors.approximate import cached_index
    from simsiam_eval.neighbors.recall import exact_sample, index_quality

    index = cached_index(bank, choice.factory, choice.metric, choice.seed)
    parameters = index.set_parameters(choice.parameters, k)
    exact = exact_sample(bank, queries, k, choice.metric, choice.recall_sample, choice.seed, device)
    return index, index_quality(index, bank, exact, parameters)


def _accuracies(
    ranked: dict[Pair, NDArray[np.int64]], labels: NDArray[np.int64], classes: int, available: int
) -> list[VoteAccuracy]:
    """The accuracy of each k and T, of M queries whose `labels` (M,) are known, among `available` neighbors."""
    from simsiam_eval.metrics.accuracy import reported_top_k
    from simsiam_eval.metrics.intervals import accuracy_metrics

    grid = []
    for (k, temperature), guesses in ranked.items():
        correct = guesses == labels[:, None]
        metrics: dict[str, float | list[float]] = {}
        for top in reported_top_k(classes):
            metrics |= accuracy_metrics(f"top{top}", int(correct[:, :top].any(axis=1).sum()), len(labels))
        grid.append(VoteAccuracy(k, temperature, min(k, available), metrics))
    return grid


def _leakage(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    nearest: NDArray[np.float32] | None,
    correct: NDArray[np.bool_],
    threshold: float,
    seed: int,
    device: torch.device,
) -> Leakage | None:
    """Leakage behind the accuracy of predictions that are `correct` (M,).

    Args:
        nearest: (M,) cosine similarity to the nearest row of the bank; None: not known yet.
    """
    from simsiam_eval.neighbors.leakage import measure_leakage, nearest_similarities

    images = len(correct)
    if nearest is None:
        rows, nearest = nearest_similarities(bank, queries, seed, device)
        correct = correct[rows]
    return measure_leakage(nearest, correct, threshold, images)


def _notes(
    sweep: Sweep | None, quality: IndexQuality | None, leakage: Leakage | None, leave_one_out: bool
) -> list[str]:
    notes = []
    if sweep is not None:
        counted_twice = "; with leave-one-out these are among the test images." if leave_one_out else "."
        notes.append(
            f"k and T chosen from {len(sweep.tried)} pairs on {sweep.images:,} held-out training images "
            f"({percent(sweep.best.held_out_top1)} % there){counted_twice}"
        )
    if quality is not None:
        notes.append(quality.sentence())
    if leakage is not None:
        notes.append(leakage.warning())
    return notes
