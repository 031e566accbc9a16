"""`linear-eval`: linear classifiers on frozen features, by SimSiam's LARS protocol (paper, App. A) or another's."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.errors import UsageError
from simsiam_eval.result import Result, provenance
from simsiam_eval.settings import EvaluationSettings, is_feature_file, may_change, option_name, setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simsiam_eval.feature_file import Features
    from simsiam_eval.probe_state import ProbeState
    from simsiam_eval.probing import Feed, Fitted, Probe, ProbeData

_SGD: dict[str, Any] = dict(lars=False, schedule="cosine", momentum=0.9, weight_decay=(0.0,), scaling=("none",), c=None)
_LARS = _SGD | {"lars": True}
_SWEPT = tuple(10 ** (power / 2) for power in range(-6, 7))  # times the lr


@dataclass(frozen=True, kw_only=True)
class LinearEvalSettings(EvaluationSettings):
    """Train a linear classifier on the frozen features of the training set and report it on the test set.

    Several values of --lr, --weight-decay, --layer, --scaling or -C are a sweep: the best is chosen on a part held out of
    the training set, refitted on all of it, and reported once on the test set.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "simsiam-code": {"lr": (0.1,), "batch_size": 4096, "epochs": 90} | _LARS,
        "simsiam-paper": {"lr": (0.02,), "batch_size": 4096, "epochs": 90} | _LARS,
        "moco-sgd": {"lr": (30.0,), "batch_size": 256, "epochs": 100} | _SGD | {"schedule": "step"},
        "dino": {"lr": (0.001,), "batch_size": 1024, "epochs": 100} | _SGD,
        # Not published: for sets of a few thousand images, where 90 epochs of one full batch are 90 steps.
        "small": {"lr": (10.0,), "batch_size": 256, "epochs": 100} | _LARS,
        "logistic": dict.fromkeys(("lr", "batch_size", "epochs", "lars", "schedule", "momentum", "weight_decay"))
        | {"c": (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3), "scaling": ("none",)},
    }
    ON_FILES, SEVERAL_LAYERS = frozenset({"layer", "views"}), True

    preset: str = setting(
        "simsiam-code", choices=tuple(PRESETS), help="Protocol: whose optimiser, lr, batch and epochs."
    )
    lars: bool | None = setting(
        by_preset=True, help="LARS (the trust ratio of LARC, clip off) around SGD, as the reference's --lars."
    )
    lr: tuple[float, ...] | None = setting(
        by_preset=True,
        above=0,
        help="Learning rate per 256 images: the optimiser's is lr x batch / 256. Several: a sweep.",
    )
    batch_size: int | None = setting(by_preset=True, at_least=1, help="Images per step.")
    epochs: int | None = setting(by_preset=True, at_least=1, help="Passes over the training features.")
    schedule: str | None = setting(
        by_preset=True,
        choices=("cosine", "step"),
        help="Of the lr, once an epoch; step: a tenth from 60 %, 80 % of them.",
    )
    momentum: float | None = setting(by_preset=True, at_least=0, help="Momentum of SGD, below 1.")
    weight_decay: tuple[float, ...] | None = setting(
        by_preset=True, at_least=0, help="Weight decay (the protocols have none). Several: a sweep."
    )
    c: tuple[float, ...] | None = setting(
        by_preset=True, above=0, short="-C", help="Logistic regression's C: scikit-learn's, of the summed loss."
    )
    scaling: tuple[str, ...] = setting(
        by_preset=True,
        choices=("none", "l2", "standard"),
        help="Of the features: as they are, every row to length one, or every feature to mean 0 and deviation 1 over the "
        "training images. Several: a sweep.",
    )
    sweep: bool = setting(False, help="Try the lr times 13 factors from 1/1000 to 1000 in half powers of ten.")
    held_out: float = setting(0.1, above=0, help="Share of the training set, class by class, by which a sweep chooses.")
    end_to_end: bool = setting(
        False, help="Train on new random crops in every epoch, through the encoder, as the reference does: slow."
    )
    per_layer: bool = setting(False, help="Probe every layer of the feature files, one row of the table each.")
    fraction: tuple[float, ...] | None = setting(
        None, above=0, at_most=1, help="Train on this share of every class's images only. Several: one row each."
    )
    shots: tuple[int, ...] | None = setting(
        None, at_least=1, help="Train on so many images of every class only. Several: one row each."
    )
    trials: int = setting(1, at_least=1, help="Seeds, from --seed on, of which mean and standard deviation are given.")
    out: Path | None = setting(None, help="Folder for the record, confusion matrix, curves and trained head.")
    save_head: Path | None = setting(None, help="File (.safetensors) for the trained head, which `predict` reads.")

    def check(self) -> None:
        super().check()
        if self.momentum is not None and self.momentum >= 1:
            raise UsageError(f"--momentum must be below 1, got {self.momentum}.")
        if self.held_out >= 1:
            raise UsageError(f"--held-out must be below 1, got {self.held_out}.")
        logistic = self.preset == "logistic"
        foreign = [name for name, value in self.PRESETS[self.preset].items() if value is None]
        if given := [name for name in foreign if getattr(self, name) is not None]:
            name = "-C" if given[0] == "c" else option_name(given[0])
            raise UsageError(f"{name} has no meaning with --preset {self.preset}.")
        if self.sweep and (logistic or len(self.lr or ()) > 1):
            raise UsageError("--sweep spreads one --lr: give it without several --lr, and not with --preset logistic.")
        if logistic and (self.views or self.end_to_end):
            raise UsageError("--preset logistic has no epochs: --views and --end-to-end are not for it.")
        if self.end_to_end and self.views:
            raise UsageError("Give --views or --end-to-end, not both.")
        if self.views and (self.per_layer or len(self.layer) > 1):
            raise UsageError("--views are of one layer: give one --layer, and no --per-layer.")
        if self.end_to_end and (self.checkpoint is None or is_feature_file(self.train)):
            raise UsageError("--end-to-end needs --checkpoint, and images as --train.")
        if self.save_head is not None and self.several:
            raise UsageError(
                "--save-head saves one head: give one --fraction or --shots, one trial, and no --per-layer."
            )

    def protocol(self) -> str | None:
        """As Settings'; --sweep changes the lr."""
        named = super().protocol()
        return f"{named}, lr swept" if self.sweep else named

    @property
    def several(self) -> bool:
        """Whether there is more than one row of results."""
        return self.per_layer or self.trials > 1 or len(self.fraction or ()) + len(self.shots or ()) > 1

    def recipes(self, layers: list[str], seed: int) -> tuple[Any, ...]:
        """Every combination of what may be given several times, once."""
        from simsiam_eval.linear import HeadRecipe
        from simsiam_eval.logistic import LogisticRecipe

        places = list(itertools.product(layers, dict.fromkeys(self.scaling)))
        if self.preset == "logistic":
            return tuple(
                LogisticRecipe(c, seed, layer, scaling)
                for layer, scaling in places
                for c in dict.fromkeys(self.c or ())
            )
        assert self.lr and self.epochs and self.batch_size and self.schedule and self.weight_decay
        assert self.lars is not None and self.momentum is not None
        rates = [self.lr[0] * factor for factor in _SWEPT] if self.sweep else list(dict.fromkeys(self.lr))
        return tuple(
            HeadRecipe(
                self.epochs, self.batch_size, lr, self.momentum, decay, self.lars, self.schedule, seed, layer, scaling
            )
            for layer, scaling in places
            for decay in dict.fromkeys(self.weight_decay)
            for lr in rates
        )


def linear_eval(settings: LinearEvalSettings) -> Result:
    """Run `linear-eval`.

    The accuracy is that of the last epoch; `top1_best_epoch`, the best on the test set, is what the reference's script
    prints and stands beside it only for comparison.

    Raises:
        UsageError, DataError: the features cannot be used, there is one class only, a class has too few images for what
            was asked, a head diverged.
    """
    from simsiam_eval.device import resolve_device
    from simsiam_eval.duplicates import leakage_warning
    from simsiam_eval.feature_cache import described_features
    from simsiam_eval.probe_data import read_probe_data
    from tasks.linear_report import describe_many, describe_one, make_folder, write_files

    started = time.perf_counter()
    make_folder(settings.out, settings.save_head)
    device = resolve_device(settings.device)
    data, train, test = read_probe_data(settings, device, settings.per_layer)
    asked = _questions(settings, data)
    probes = [probe for _, probe in asked]
    nearest = _nearest(settings, probes[0], data, train, test)
    feed = _feed(settings, data, train, probes)
    kept = _kept(settings, train, test)
    fitted = _fitted(settings, probes, data, feed, kept)
    if settings.several:
        metrics, table = describe_many(settings, data, [what for what, _ in asked], fitted, feed.name)
    else:
        crop = None if feed.name == "crop" else _on_crops(settings, probes[0], fitted[0], data)
        metrics, table = describe_one(settings, data, probes[0], fitted[0], feed.name, crop)
    metrics["leakage"] = _leakage(settings, fitted[0], data, nearest)
    if metrics["leakage"]:
        which = f"top-1 of the first row at seed {settings.seed}" if settings.several else "top-1"
        table = replace(table, notes=[*table.notes, leakage_warning(metrics["leakage"], which)])
    more = {"end_to_end": feed.described()} if settings.end_to_end else {}
    result = Result(
        task="linear-eval",
        protocol=settings.protocol(),
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(
            started, str(device), train=described_features(train), test=described_features(test), **more
        ),
        table=table,
    )
    result = write_files(settings, result, None if settings.several else fitted[0], data, train.attributes)
    if kept is not None:
        kept.remove()
    return result


def _kept(settings: LinearEvalSettings, train: Features, test: Features) -> ProbeState | None:
    """Where an end-to-end training with --out is kept while it goes on."""
    from simsiam_eval.probe_state import ProbeState

    if not settings.end_to_end or settings.out is None:
        return None
    free = {"out", "save_head", "workers", "strict", *may_change(type(settings))}
    key = {
        name: value for name, value in settings.to_dict().items() if name not in free | {"train", "test", "checkpoint"}
    }
    key |= {"encoder": train.attributes["encoder"], "preprocessing": train.attributes["preprocessing"]}
    key |= {"sources": [one.attributes["source"]["fingerprint"] for one in (train, test)]}
    return ProbeState(settings.out / "unfinished.pt", key)


def _feed(settings: LinearEvalSettings, data: ProbeData, train: Features, probes: list[Probe]) -> Any:
    import numpy as np

    from simsiam_eval.end_to_end import EndToEndFeed
    from simsiam_eval.probe_data import feed_of

    if not settings.end_to_end:
        return feed_of(settings, data, train)
    everything = np.arange(len(train.rows))
    needed = np.unique(np.concatenate([everything if one.rows is None else one.rows for one in probes]))
    assert settings.checkpoint is not None
    epochs = settings.epochs or 0
    return EndToEndFeed(settings.checkpoint, settings, train, needed, list(data.train), epochs, data.device)


def _questions(settings: LinearEvalSettings, data: ProbeData) -> list[tuple[dict[str, Any], Probe]]:
    """What each probe is of (layer, fraction or shots, trial), and the probe."""
    from simsiam_eval.probing import Probe
    from simsiam_eval.splits import fraction_of, shots_of

    labels, names = data.train_labels.cpu().numpy(), data.class_names
    amounts: list[dict[str, Any]] = [{"shots": one} for one in settings.shots or ()]
    amounts += [{"fraction": one} for one in settings.fraction or ()]
    groups = [[layer] for layer in data.train] if settings.per_layer else [list(data.train)]
    found = []
    for layers, amount, trial in itertools.product(groups, amounts or [{}], range(settings.trials)):
        seed, rows = settings.seed + trial, None
        if "shots" in amount:
            rows = shots_of(labels, amount["shots"], seed, names)
        elif "fraction" in amount:
            rows = fraction_of(labels, amount["fraction"], seed, names)
        what = {"layer": " ".join(layers), **amount, "images": len(labels) if rows is None else len(rows)}
        found.append((what, Probe(settings.recipes(layers, seed), rows)))
    return found


def _fitted(
    settings: LinearEvalSettings, probes: list[Probe], data: ProbeData, feed: Feed, kept: ProbeState | None = None
) -> list[Fitted]:
    from simsiam_eval.logistic import fit_logistic, fits
    from simsiam_eval.probing import fit_probes, passes
    from simsiam_eval.progress import progress

    if settings.preset == "logistic":
        with progress("linear-eval", fits(probes)) as advance:
            return fit_logistic(probes, data, settings.held_out, lambda note: advance(1, note))
    with progress("linear-eval", passes(probes, feed) * (settings.epochs or 0)) as advance:
        return fit_probes(probes, data, feed, settings.held_out, lambda note: advance(1, note), kept)


def _nearest(
    settings: LinearEvalSettings, probe: Probe, data: ProbeData, train: Features, test: Features
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Test images, all or a random part, and their similarity to the nearest of the probe's training images."""
    from simsiam_eval.duplicates import nearest_similarities

    bank = train.features if probe.rows is None else train.features[probe.rows]
    return nearest_similarities(bank, test.features, settings.seed, data.device)


def _leakage(
    settings: LinearEvalSettings,
    fitted: Fitted,
    data: ProbeData,
    nearest: tuple[NDArray[np.int64], NDArray[np.float32]],
) -> dict[str, Any] | None:
    """What rests on near-duplicates of the accuracy of the first head in the table."""
    from simsiam_eval.duplicates import leakage_metrics
    from simsiam_eval.linear import among_top

    right = among_top(fitted.head.scores(data.test[fitted.head.layer]), data.test_labels, 1).cpu().numpy()
    return leakage_metrics(nearest[1], right[nearest[0]], settings.leakage, len(right))


def _on_crops(settings: LinearEvalSettings, probe: Probe, fitted: Fitted, data: ProbeData) -> Fitted:
    """The same recipe trained on centre crops, for the difference."""
    from simsiam_eval.probing import CropFeed, Probe

    return _fitted(settings, [Probe((fitted.recipe,), probe.rows)], data, CropFeed(data.train))[0]
