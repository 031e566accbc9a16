"""`linear-eval`: evaluate linear classifiers on frozen features, with SimSiam's LARS protocol (paper, App. A) or others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.record import Result, provenance
from simsiam_eval.commands.unreadable import unreadable_faults
from tasks.linear.settings import LinearEvalSettings

if TYPE_CHECKING:
    from simsiam_eval.encoders.choice import EncoderChoice
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.features.table import Features
    from simsiam_eval.linear.data import ProbeData
    from simsiam_eval.linear.end_to_end import EndToEndFeed
    from simsiam_eval.linear.feeds import Feed
    from simsiam_eval.linear.probing import LinearFit
    from simsiam_eval.linear.state import ProbeState
    from simsiam_eval.neighbors.leakage import Leakage
    from simsiam_eval.sources.base import ImageSource
    from tasks.linear.trials import Trial

_FEEDS = {
    "crop": "on features of center crops",
    "views": "on features of {} augmented views per image",
    "end-to-end": "end to end",
}


def linear_eval(settings: LinearEvalSettings) -> Result:
    """Run `linear-eval`.

    The reported accuracy is that of the last epoch. `top1_best_epoch`, the best on the test set, is what the reference's
    script prints, and is only for comparison.

    Raises:
        UsageError, DataError: the features cannot be used, there is only one class, a class has too few images for
            --shots or --fraction, or a head diverged.
    """
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.linear.data import feed_of, read_probe_data
    from simsiam_eval.runtime.device import resolve_device
    from simsiam_eval.sources.opening import open_source
    from tasks.linear.files import try_folder, write_files
    from tasks.linear.report import NOTHING_HELD_OUT, HeadReport, RowsReport, head_report, rows_report
    from tasks.linear.trials import Subset, trials_of

    started = time.perf_counter()
    try_folder(settings.out)
    device = resolve_device(settings.device)
    data, train, test = read_probe_data(
        settings.train, settings.test, settings.given_encoder(), settings.extraction(), device, settings.per_layer
    )
    subsets = [Subset(shots=shots) for shots in settings.shots or ()]
    subsets += [Subset(fraction=fraction) for fraction in settings.fraction or ()]
    seeds = range(settings.seed, settings.seed + settings.trials)
    trials = trials_of(data, settings.linear_protocol(), subsets, seeds, settings.per_layer)
    end_to_end, state = None, None
    if settings.end_to_end:
        assert settings.checkpoint is not None
        choice = settings.encoder_choice(settings.checkpoint)
        source = open_source(settings.train, "train", settings.no_label)
        end_to_end = _end_to_end_feed(choice, source, settings.extraction(), train, trials, data)
        if settings.out is not None:
            state = _state(settings.out, settings.training_values(), train, test)
    feed = feed_of(settings.views, data, train) if end_to_end is None else end_to_end
    fits = _fit(trials, data, feed, settings.held_out, state)
    report: HeadReport | RowsReport
    if settings.several:
        report = rows_report(trials, fits, data, feed.name)
    else:
        report = head_report(fits[0], trials[0].probe, data, feed.name, _crop_fit(trials[0], fits[0], data, feed))
    metrics = report.to_dict()
    table = report.table(f"Linear evaluation, {settings.protocol()}, {_FEEDS[feed.name].format(settings.views)}")
    # Leakage is measured in the deepest layer: shallow layers find most images similar.
    index = next(index for index, trial in enumerate(trials) if trial.setup.layer == trials[-1].setup.layer)
    leakage = _leakage(trials[index], fits[index], data, settings.leakage, settings.seed)
    metrics["leakage"] = leakage and {"layer": fits[index].head.layer} | leakage.to_dict()
    if leakage:
        row = f"of the first row of {fits[index].head.layer}" if settings.per_layer else "of the first row"
        accuracy = f"top-1 {row} at seed {settings.seed}" if settings.several else "top-1"
        table = replace(table, notes=[*table.notes, leakage.warning(accuracy)])
    if any(len(trial.probe.recipes) > 1 and not fit.candidates for trial, fit in zip(trials, fits, strict=True)):
        table = replace(table, notes=[*table.notes, NOTHING_HELD_OUT])
    encoder = {} if end_to_end is None else {"end_to_end": end_to_end.checked_encoder()}
    result = Result(
        task="linear-eval",
        protocol=settings.protocol(),
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(
            started, str(device), train=described_features(train), test=described_features(test), **encoder
        ),
        faults=unreadable_faults([train.read_images, test.read_images], settings.max_unreadable),
        table=table,
    )
    single = report if isinstance(report, HeadReport) else None
    result = write_files(result, single, train.attributes, settings.out, settings.save_head)
    if state is not None:
        state.remove()
    return result


def _state(out: Path, values: dict[str, Any], train: Features, test: Features) -> ProbeState:
    """Where an end-to-end training is saved after every epoch, identified by what its heads depend on."""
    from simsiam_eval.linear.state import ProbeState

    key = values | {"encoder": train.attributes["encoder"], "preprocessing": train.attributes["preprocessing"]}
    key |= {"sources": [features.attributes["source"]["fingerprint"] for features in (train, test)]}
    return ProbeState(out / "unfinished.pt", key)


def _end_to_end_feed(
    choice: EncoderChoice,
    source: ImageSource,
    options: ExtractionOptions,
    train: Features,
    trials: Sequence[Trial],
    data: ProbeData,
) -> EndToEndFeed:
    """The feed of --end-to-end, for the rows that any trial is trained on."""
    import numpy as np

    from simsiam_eval.linear.end_to_end import EndToEndFeed

    rows = [trial.probe.rows for trial in trials]
    needed = np.unique(np.concatenate([np.arange(len(data.train)) if part is None else part for part in rows]))
    return EndToEndFeed(choice, source, options, train, needed, list(data.train.layers), data.device)


def _fit(
    trials: Sequence[Trial], data: ProbeData, feed: Feed, held_out: float, state: ProbeState | None = None
) -> list[LinearFit]:
    """Train a head per trial: one after the other, or together where the epochs of the feed are costly."""
    from simsiam_eval.linear.probing import fit_in_one_pass, fit_linear
    from simsiam_eval.runtime.progress import progress

    probes = [trial.probe for trial in trials]
    if feed.costly:
        with progress("linear-eval", probes[0].epochs) as advance:
            return fit_in_one_pass(
                probes, data.train, feed, test=data.test, held_out=held_out, state=state,
                after_step=lambda note: advance(1, note),
            )  # fmt: skip
    labels = data.train.labels.cpu().numpy()
    with progress("linear-eval", sum(probe.steps(labels) for probe in probes)) as advance:
        return [
            fit_linear(
                data.train.layers,
                data.train.labels,
                probe.recipes,
                rows=probe.rows,
                held_out=held_out,
                device=data.device,
                feed=feed,
                test=data.test,
                after_step=lambda note: advance(1, note),
            )
            for probe in probes
        ]


def _crop_fit(trial: Trial, fit: LinearFit, data: ProbeData, feed: Feed) -> LinearFit | None:
    """The chosen recipe trained on center crops, to compare another feed with."""
    from simsiam_eval.linear.feeds import CropFeed
    from simsiam_eval.linear.selection import Probe

    if feed.name == "crop":
        return None
    single = replace(trial, probe=Probe((fit.recipe,), trial.probe.rows))
    return _fit([single], data, CropFeed(data.train.layers), held_out=0.5)[0]


def _leakage(trial: Trial, fit: LinearFit, data: ProbeData, threshold: float, seed: int) -> Leakage | None:
    """How much of the accuracy rests on near-duplicates of training images, in the layer of the head."""

    from simsiam_eval.neighbors.leakage import measure_leakage, nearest_similarities

    layer = fit.head.layer
    rows, bank, queries = trial.probe.rows_on(data.device), data.train.layers[layer], data.test.layers[layer]
    if rows is not None:
        bank = bank[rows]
    measured, nearest = nearest_similarities(bank.cpu().numpy(), queries.cpu().numpy(), seed, data.device)
    correct = fit.head.correct(queries, data.test.labels, [1])[:, 0].cpu().numpy()
    return measure_leakage(nearest, correct[measured], threshold, len(correct))
