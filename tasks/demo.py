"""`demo`: the full pipeline in a few minutes without a GPU, on handwritten digits in front of photographs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, setting
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.wording import percent
from tasks.extract import ExtractSettings, extract
from tasks.knn import KnnSettings, knn
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings

DATA = "photo-digits"  # the image source, and the preset of pretrain


@dataclass(frozen=True, kw_only=True)
class DemoSettings(DeviceSettings, PrecisionSettings, SeedSettings):
    """Pretrain on handwritten digits in front of photographs, evaluate, and show the collapse without stop-gradient.

    Takes 2 to 6 minutes on 2 cores.
    """

    GROUPS: ClassVar[dict[str, str]] = {"optimization": "epochs", "output": "out"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--out simsiam-demo",)

    out: Path = setting(Path("simsiam-demo"), help="Output folder.")
    epochs: int = setting(15, at_least=1, help="Number of pretraining epochs; a fifth of them without stop-gradient.")


@dataclass(frozen=True)
class Run:
    """One pretraining of the demo.

    Attributes:
        title: the row of the table.
        epochs: as a function of those of the command.
        stop_gradient: whether SimSiam has its stop-gradient.
    """

    title: str
    epochs: Callable[[int], int]
    stop_gradient: bool = True


# By name of their folder.
RUNS = {
    "untrained": Run("untrained encoder, BN estimated", lambda _: 0),
    "simsiam": Run("SimSiam", lambda epochs: epochs),
    # it collapses within the first hundred steps
    "no-stop-gradient": Run("SimSiam without stop-gradient", lambda epochs: -(-epochs // 5), stop_gradient=False),
}


@dataclass(frozen=True)
class Accuracies:
    """kNN and linear top-1 accuracy, as fractions with their 95 % intervals, and the number of test images."""

    images: int
    knn_top1: float
    knn_top1_interval: Sequence[float]
    linear_top1: float
    linear_top1_interval: Sequence[float]


def demo(settings: DemoSettings, pretrain: Callable[..., Result], report: Callable[..., Result]) -> Result:
    """Run `demo`. If it was interrupted in this folder it is resumed; finished parts are not computed again.

    Args:
        settings: of the command.
        pretrain, report: these commands, called with the fields of their settings (tasks do not import pretrain).

    Raises:
        DataError: the folder contains other files or a demo with other settings, or cannot be written.
    """
    from simsiam_eval.runtime.progress import say

    started = time.perf_counter()
    out = settings.out
    pixels = {split: out / f"pixels-{split}.h5" for split in ("train", "test")}
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not pixels["train"].exists())):
        raise DataError(f"{out} is not the folder of a demo; give another --out, or delete it.")
    shared: dict[str, Any] = {"device": settings.device, "precision": settings.precision, "seed": settings.seed}

    say("raw pixels")
    write_pixel_features(pixels)
    accuracies = _evaluate(out / "pixels", settings.device, settings.seed)
    metrics: dict[str, Any] = {"raw_pixels": asdict(accuracies)}
    rows = [["raw pixels", *_cells(accuracies), "-"]]
    files: dict[str, str] = {}
    for name, run in RUNS.items():
        say(run.title)
        pretrained = pretrain(
            preset=DATA,
            data=f"{DATA}#unlabeled",
            epochs=run.epochs(settings.epochs),
            stop_gradient=run.stop_gradient,
            channels_last=True,  # faster for this small network on a CPU
            out=out / name,
            **shared,
        )
        files[name] = pretrained.files["checkpoint"]
        for split in ("train", "test"):
            path = out / f"{name}-{split}.h5"
            extract(ExtractSettings(checkpoint=files[name], data=f"{DATA}#{split}", out=path, **shared))
        accuracies = _evaluate(out / name, settings.device, settings.seed)
        std = pretrained.metrics.get("output_std")
        metrics[name.replace("-", "_")] = asdict(accuracies) | {"output_std": std}
        rows.append([run.title, *_cells(accuracies), "-" if std is None else f"{std:.3f}"])
    say("report")
    page = out / "report.html"
    report(results=_results(out), out=page, device=settings.device, seed=settings.seed)
    files["report"] = str(page)
    return Result(
        task="demo",
        protocol=DATA,
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, settings.device),
        files=files,
        table=Table(
            f"Handwritten digits in front of photographs, {accuracies.images} test images, seed {settings.seed}",
            ("features", "kNN top-1 % [95 %]", "linear top-1 % [95 %]", "output std x sqrt(d)"),
            rows,
            [
                "kNN: k 20, T 0.07. Linear: LARS, preset small, last epoch. "
                "Output std: 1 if spread over the sphere, 0 if collapsed.",
                "The preset was chosen on the split val and seed 11.",
                f"The report is {page}: open it in a browser to see the images behind these numbers.",
                f"Outputs are kept in {out}. Use them with other commands, such as: simsiam-eval inspect {files['simsiam']}",
            ],
        ),
    )


def write_pixel_features(paths: Mapping[str, Path]) -> None:
    """Write feature files of the images' 3,072 values in [0, 1], the baseline for every encoder.

    Args:
        paths: split -> file; an existing file is kept.
    """
    import numpy as np

    from simsiam_eval.features.writer import write_features
    from simsiam_eval.sources.opening import open_source

    for split, path in paths.items():
        if path.exists():
            continue
        source = open_source(DATA, split)
        images = [source.image(row).pixels().reshape(-1) for row in range(len(source))]
        write_features(
            path,
            np.stack(images).astype(np.float32) / 255,
            source.labels,
            [source.id(row) for row in range(len(source))],
            encoder={"arch": "raw pixels"},
            source={
                "spec": source.spec,
                "fingerprint": source.fingerprint(),
                "class_names": list(source.class_names or ()),
            },
        )


def _evaluate(encoder: Path, device: str, seed: int) -> Accuracies:
    """Accuracies of the features in ENCODER-train.h5 and ENCODER-test.h5; the linear one's record is kept beside them."""
    options: dict[str, Any] = {split: f"{encoder}-{split}.h5" for split in ("train", "test")}
    options |= {"device": device, "seed": seed}
    neighbors = knn(KnnSettings(k=(20,), temperature=(0.07,), **options)).metrics
    result = linear_eval(LinearEvalSettings(preset="small", **options))
    with atomic_write(Path(f"{encoder}-linear.json")) as file:
        file.write(result.to_json().encode())
    linear = result.metrics
    return Accuracies(
        images=neighbors["images"],
        knn_top1=neighbors["top1"],
        knn_top1_interval=neighbors["top1_interval"],
        linear_top1=linear["top1"],
        linear_top1_interval=linear["top1_interval"],
    )


def _results(out: Path) -> tuple[Path, ...]:
    """What the report shows: SimSiam first, which it is about, then what SimSiam is compared with."""
    names = ("simsiam", "untrained", "no-stop-gradient", "pixels")
    features = [out / f"{name}-{split}.h5" for name in names for split in ("test", "train")]
    return (*features, out / "simsiam-linear.json", out / "simsiam", out / "no-stop-gradient")


def _cells(accuracies: Accuracies) -> list[str]:
    return [
        percent(accuracies.knn_top1, accuracies.knn_top1_interval),
        percent(accuracies.linear_top1, accuracies.linear_top1_interval),
    ]
