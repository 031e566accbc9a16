"""`detect`: fine-tune detectors from one or more encoders and evaluate them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from simsiam_eval.commands.record import Result, provenance
from simsiam_eval.commands.settings import may_change
from simsiam_eval.encoders.settings import CHOICE_NAMES
from simsiam_eval.files.atomic import atomic_write
from tasks.detection.presets import preset_schedule
from tasks.detection.settings import DetectSettings

if TYPE_CHECKING:
    from simsiam_eval.runtime.processes import Processes
    from tasks.detection.data.preparation import Datasets
    from tasks.detection.initialization import Initialization
    from tasks.detection.run import Experiment, RunResult

# Settings that may change on resume: each initialization has its own folder.
_MAY_CHANGE = may_change(DetectSettings) | {"init", "checkpoint", "trials", "seed", "backend", "stem", *CHOICE_NAMES}


def detect(settings: DetectSettings) -> Result:
    """Run `detect` on one process, or on those that torchrun started.

    If the run folder already holds runs, they are resumed.

    Raises:
        UsageError: the backend cannot be used, or does not support this encoder.
        DataError: images, annotations or the run folder cannot be used, the loss is not finite, or memory is short.
        Stopped: by Ctrl-C, SIGTERM or SIGUSR1, after a checkpoint.
    """
    from simsiam_eval.runtime.processes import join_processes

    started = time.perf_counter()
    with join_processes(settings.device) as processes:
        return _detect(settings, processes, started)


def _detect(settings: DetectSettings, processes: Processes, started: float) -> Result:
    """The command in one process: settings become plain arguments here."""
    from simsiam_eval.runtime.progress import say
    from tasks.detection.backends.choose import choose_backend
    from tasks.detection.backends.detectron2.weights import unsupported_trunk
    from tasks.detection.data.preparation import prepare_datasets
    from tasks.detection.detector_spec import Sizes, detector_spec
    from tasks.detection.initialization import inspect_initializations, labeled_checkpoints
    from tasks.detection.run import Experiment
    from tasks.detection.run_folder import RunIdentity, run_folder

    settings.check_batch(processes.world)
    checkpoints = labeled_checkpoints(settings.checkpoint, settings.init or ())
    choices = {
        label: None if checkpoint is None else settings.encoder_choice(checkpoint)
        for label, checkpoint in checkpoints.items()
    }
    inits = inspect_initializations(choices, settings.random_arch, settings.stem, settings.extraction())
    on_cpu = processes.device.type == "cpu"
    reasons = [unsupported_trunk(init.arch, init.stem, init.variant) for init in inits]
    unsupported = next(filter(None, reasons), None)
    backend = choose_backend(settings.backend, unsupported, bf16_on_cpu=settings.precision == "bf16" and on_cpu)
    data = prepare_datasets(
        settings.train,
        settings.test,
        settings.classes or (),
        settings.masks,
        processes,
        settings.intensity,
        known=next((levels for init in inits if (levels := init.intensity()).ranges), None),
    )
    spec, cpu_note = detector_spec(
        heads=settings.heads,
        masks=settings.masks,
        classes=data.train.classes,
        min_sizes=settings.min_sizes,
        test_size=settings.test_size,
        max_size=settings.max_size,
        sizes=Sizes(settings.proposals, settings.rois, settings.precise_bn),
        on_cpu=on_cpu,
    )
    schedule = preset_schedule(settings.preset).rescaled(
        settings.batch_size,
        lr=settings.lr,
        iterations=settings.iterations,
        steps=settings.steps,
        warmup=settings.warmup,
    )
    experiment = Experiment(
        out=settings.out,
        backend=backend,
        spec=spec,
        schedule=schedule,
        train=data.train,
        test=data.test,
        metric=settings.metric,
        processes=processes,
        precision=settings.precision,
        workers=settings.workers,
        checkpoint_every=settings.checkpoint_every,
    )
    folder: AbstractContextManager[None] = nullcontext()
    if processes.main:
        say(schedule.sentence(processes.world))
        for line in [
            *filter(None, [cpu_note]),
            *data.train_report.sentences("train"),
            *data.test_report.sentences("test"),
        ]:
            say(line)
        say(f"Backend: {backend.name}, {inits[0].arch}-{settings.heads}.")
        identity = RunIdentity(settings.to_dict(), data.train.fingerprint(), data.test.fingerprint(), backend.name)
        folder = run_folder(settings.out, identity, _MAY_CHANGE, may_resume=settings.resume == "auto")
    with folder:
        seeds = range(settings.seed, settings.seed + settings.trials)
        runs = {init.label: [experiment.run(init, seed) for seed in seeds] for init in inits}
        result = _result(settings, experiment, inits, data, runs, cpu_note, started)
        if processes.main:
            with atomic_write(settings.out / "result.json") as file:
                file.write(result.to_json().encode())
    return result


def _result(
    settings: DetectSettings,
    experiment: Experiment,
    inits: list[Initialization],
    data: Datasets,
    runs: dict[str, list[RunResult]],
    cpu_note: str | None,
    started: float,
) -> Result:
    """The record of all runs, and the table that compares them with the paper."""
    from tasks.detection.summary import TableRow, results_table, summarize

    backend, first = experiment.backend, inits[0].label
    statistics = {label: summarize(results) for label, results in runs.items()}
    warnings = [
        f"{label}: {text}" for label, results in runs.items() for run in results for text in run.evaluation.warnings
    ]
    notes = [cpu_note] if cpu_note else []
    protocol = f"{settings.protocol()}{', reduced for CPU' if cpu_note else ''}"
    folder = experiment.folder(first, settings.seed)
    random = [init.to_dict() for init in inits if init.report is None]
    ran_on = provenance(
        started,
        str(experiment.processes.device),
        backend=backend.name,
        differences=list(backend.differences),
        schedule=dataclasses.asdict(experiment.schedule),
        # Mean and standard deviation are the encoder's.
        detector={k: v for k, v in dataclasses.asdict(experiment.spec).items() if k not in ("mean", "std")},
        encoders={init.label: init.to_dict() for init in inits if init.report is not None},
        random=random[0] if random else None,
        processes=experiment.processes.world,
        train={"spec": list(settings.train), **data.train_report.to_dict()},
        test={"spec": settings.test, **data.test_report.to_dict()},
        notes=notes,
    )
    if data.test.images.intensity.ranges:
        ran_on["intensity"] = data.test.images.intensity.to_json()
    ran_on["versions"] |= backend.versions() | {"pycocotools": importlib.metadata.version("pycocotools")}
    rows = [TableRow(init.label, f"{init.arch}-{settings.heads}", statistics[init.label]) for init in inits]
    table_notes = [*notes, *warnings, f"Pictures: {folder / 'picture.png'}"]
    return Result(
        task="detect",
        protocol=protocol,
        settings=settings.to_dict(),
        metrics={
            **{name: numbers.mean for name, numbers in statistics[first].items()},
            "init": first,
            "by_init": {
                label: {name: numbers.to_dict() for name, numbers in by_name.items()}
                for label, by_name in statistics.items()
            },
            "runs": [run.to_dict() for results in runs.values() for run in results],
            "images": len(data.test.images),
            "warnings": warnings,
        },
        provenance=ran_on,
        files={"picture": str(folder / "picture.png"), "detections": str(folder / "detections.json")},
        table=results_table(rows, backend, settings.preset, protocol, settings.metric, table_notes),
    )
