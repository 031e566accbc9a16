"""`linear-eval`: linear classifiers on frozen features, by SimSiam's LARS protocol (paper, App. A) or another's."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.record import Result, provenance
from simsiam_eval.commands.settings import may_change
from tasks.linear.settings import LinearEvalSettings

if TYPE_CHECKING:
    from simsiam_eval.features.file import Features
    from simsiam_eval.linear.probing import Feed, Fitted, Probe, ProbeData
    from simsiam_eval.linear.state import ProbeState


_LARGEST = 1e15  # of a feature


def linear_eval(settings: LinearEvalSettings) -> Result:
    """Run `linear-eval`.

    The accuracy is that of the last epoch; `top1_best_epoch`, the best on the test set, is what the reference's script
    prints and stands beside it only for comparison.

    Raises:
        UsageError, DataError: the features cannot be used, there is one class only, a class has too few images for what
            was asked, a head diverged.
    """
    from simsiam_eval.extraction.sets import described_features
    from simsiam_eval.linear.data import read_probe_data
    from simsiam_eval.neighbors.duplicates import leakage_warning
    from simsiam_eval.runtime.device import resolve_device
    from tasks.linear.report import NOT_CHOSEN, describe_many, describe_one, make_folder, write_files

    started = time.perf_counter()
    settings.try_outputs()
    make_folder(settings.out)
    device = resolve_device(settings.device)
    data, train, test = read_probe_data(settings, device, settings.per_layer)
    _refuse_extremes(settings, data)
    asked = _questions(settings, data)
    probes = [probe for _, probe in asked]
    feed = _feed(settings, data, train, probes)
    kept = _kept(settings, train, test)
    fitted = _fitted(settings, probes, data, feed, kept)
    if settings.several:
        metrics, table = describe_many(settings, data, [what for what, _ in asked], fitted, feed.name)
    else:
        crop = None if feed.name == "crop" else _on_crops(settings, probes[0], fitted[0], data)
        metrics, table = describe_one(settings, data, probes[0], fitted[0], feed.name, crop)
    # Of the deepest layer's first row: shallow layers take most images for alike.
    place = next(place for place, (what, _) in enumerate(asked) if what["layer"] == asked[-1][0]["layer"])
    metrics["leakage"] = _leakage(settings, probes[place], fitted[place], data)
    if metrics["leakage"]:
        row = f"of {fitted[place].head.layer}'s first row" if settings.per_layer else "of the first row"
        which = f"top-1 {row} at seed {settings.seed}" if settings.several else "top-1"
        table = replace(table, notes=[*table.notes, leakage_warning(metrics["leakage"], which)])
    if any(len(probe.recipes) > 1 and not one.tried for probe, one in zip(probes, fitted, strict=True)):
        table = replace(table, notes=[*table.notes, NOT_CHOSEN])
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
    from simsiam_eval.linear.state import ProbeState

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

    if not settings.end_to_end:
        from simsiam_eval.linear.data import feed_of

        return feed_of(settings, data, train)
    from simsiam_eval.linear.end_to_end import EndToEndFeed

    everything = np.arange(len(train.rows))
    needed = np.unique(np.concatenate([everything if one.rows is None else one.rows for one in probes]))
    assert settings.checkpoint is not None
    return EndToEndFeed(settings.checkpoint, settings, train, needed, list(data.train), data.device)


def _questions(settings: LinearEvalSettings, data: ProbeData) -> list[tuple[dict[str, Any], Probe]]:
    """What each probe is of (layer, fraction or shots, trial), and the probe."""
    from simsiam_eval.features.splits import fraction_of, shots_of
    from simsiam_eval.linear.probing import Probe

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


def _refuse_extremes(settings: LinearEvalSettings, data: ProbeData) -> None:
    """DataError for features as they are whose gradients' squares float32 cannot hold: the trust ratio would be 0."""
    from simsiam_eval.errors import DataError

    if "none" not in settings.scaling:
        return
    for layer, features in data.train.items():
        if (largest := max(abs(float(one)) for one in features.aminmax())) > _LARGEST:
            raise DataError(
                f"The features of layer {layer} in {settings.train} reach {largest:.1e}, which gradients in float32 cannot "
                "follow: give --scaling l2 or standard."
            )


def _fitted(
    settings: LinearEvalSettings, probes: list[Probe], data: ProbeData, feed: Feed, kept: ProbeState | None = None
) -> list[Fitted]:
    from simsiam_eval.linear.logistic import fit_logistic, fits
    from simsiam_eval.linear.probing import fit_probes, passes
    from simsiam_eval.runtime.progress import progress

    if settings.preset == "logistic":
        with progress("linear-eval", fits(probes, data)) as advance:
            return fit_logistic(probes, data, settings.held_out, lambda note: advance(1, note))
    with progress("linear-eval", passes(probes, data, feed) * (settings.epochs or 0)) as advance:
        return fit_probes(probes, data, feed, settings.held_out, lambda note: advance(1, note), kept)


def _leakage(settings: LinearEvalSettings, probe: Probe, fitted: Fitted, data: ProbeData) -> dict[str, Any] | None:
    """What rests on near-duplicates, in the head's layer, of its accuracy."""
    from simsiam_eval.linear.heads import among_top
    from simsiam_eval.neighbors.duplicates import leakage_metrics, nearest_similarities

    rows, bank, tested = probe.all_rows(data), data.train[fitted.head.layer], data.test[fitted.head.layer]
    if rows is not None:
        bank = bank[rows]
    asked, nearest = nearest_similarities(bank.cpu().numpy(), tested.cpu().numpy(), settings.seed, data.device)
    right = among_top(fitted.head.scores(tested), data.test_labels, 1).cpu().numpy()
    found = leakage_metrics(nearest, right[asked], settings.leakage, len(right))
    return found and {"layer": fitted.head.layer} | found


def _on_crops(settings: LinearEvalSettings, probe: Probe, fitted: Fitted, data: ProbeData) -> Fitted:
    """The same recipe trained on center crops, for the difference."""
    from simsiam_eval.linear.probing import CropFeed, Probe

    return _fitted(settings, [Probe((fitted.recipe,), probe.rows)], data, CropFeed(data.train))[0]
