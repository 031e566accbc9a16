"""`demo`: the whole road in a few minutes without a GPU, on scikit-learn's handwritten digits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, setting
from simsiam_eval.errors import DataError
from simsiam_eval.wording import percent
from tasks.extract import ExtractSettings, extract
from tasks.knn import KnnSettings, knn
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings


@dataclass(frozen=True, kw_only=True)
class DemoSettings(DeviceSettings, PrecisionSettings, SeedSettings):
    """Pretrain on handwritten digits, evaluate, and see the collapse without stop-gradient (2 to 6 minutes on 2 cores)."""

    GROUPS: ClassVar[dict[str, str]] = {"output": "out"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("--out simsiam-demo",)

    out: Path = setting(Path("simsiam-demo"), help="Folder for everything the demo makes.")
    epochs: int | None = setting(None, at_least=1, help="Pretraining epochs; default: those of the digits preset.")


# name of the folder: (line of the table, what differs from the preset `digits`)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "untrained": ("untrained encoder, BN estimated", {"epochs": 0}),
    "simsiam": ("SimSiam", {}),
    "no-stop-gradient": ("SimSiam without stop-gradient", {"stop_gradient": False}),
}


def demo(settings: DemoSettings, pretrain: Callable[..., Result]) -> Result:
    """Run `demo`; in a folder where it was stopped it goes on, and what is finished is not made again.

    Args:
        pretrain: the pretraining command, called with the fields of its settings (tasks do not import pretrain).

    Raises:
        DataError: the folder holds something else, or a demo of other settings, or cannot be written.
    """
    from simsiam_eval.runtime.progress import say

    started = time.perf_counter()
    out = settings.out
    pixels = {split: out / f"pixels-{split}.h5" for split in ("train", "test")}
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not pixels["train"].exists())):
        raise DataError(f"{out} holds something else: give another --out, or delete it.")
    common: dict[str, Any] = {"device": settings.device, "precision": settings.precision, "seed": settings.seed}
    metrics: dict[str, Any] = {}
    rows: list[list[str]] = []
    files: dict[str, str] = {}

    say("raw pixels")
    write_pixel_features(pixels)
    metrics["raw_pixels"], row = _judged(pixels, settings)
    rows.append(["raw 8x8 pixels", *row, "-"])

    for name, (line, changed) in RUNS.items():
        say(line)
        run: dict[str, Any] = dict(preset="digits", data="digits#train", out=out / name, **common)
        run |= {"epochs": settings.epochs} if settings.epochs else {}
        trained = pretrain(**(run | changed))
        checkpoint = Path(trained.files["checkpoint"])
        features = {split: out / f"{name}-{split}.h5" for split in ("train", "test")}
        for split, path in features.items():
            extract(ExtractSettings(checkpoint=checkpoint, data=f"digits#{split}", out=path, **common))
        judged, row = _judged(features, settings)
        std = trained.metrics.get("output_std")
        metrics[name.replace("-", "_")] = judged | {"output_std": std}
        rows.append([line, *row, "-" if std is None else f"{std:.3f}"])
        files[name] = str(checkpoint)
    return Result(
        task="demo",
        protocol="digits",
        settings=settings.to_dict(),
        metrics=metrics,
        provenance=provenance(started, settings.device),
        files=files,
        table=Table(
            f"Handwritten digits, {judged['images']} test images, seed {settings.seed}",
            ("features", "kNN top-1 % [95 %]", "linear top-1 % [95 %]", "output std x sqrt(d)"),
            rows,
            [
                "kNN: k 20, T 0.07. Linear: LARS, preset small, last epoch. std: 1 spread over the sphere, 0 collapsed.",
                "The preset was chosen on these test images with seed 0: other seeds are its check.",
                f"Everything is in {out}; go on with, for example: simsiam-eval inspect {files['simsiam']}",
            ],
        ),
    )


def write_pixel_features(paths: dict[str, Path]) -> None:
    """Feature files of the digits' own 64 gray values, in [0, 1], where they are not yet: the line every encoder has to be
    seen beside."""
    import numpy as np

    from simsiam_eval.features.writer import write_features
    from simsiam_eval.sources.opening import open_source

    for split, path in paths.items():
        if path.exists():
            continue
        source = open_source("digits", split)
        images = [source.image(row).pixels()[:, :, 0].reshape(-1) for row in range(len(source))]
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


def _judged(features: dict[str, Path], settings: DemoSettings) -> tuple[dict[str, Any], list[str]]:
    sets: dict[str, Any] = {split: str(path) for split, path in features.items()}
    sets |= {"device": settings.device, "seed": settings.seed}
    near = knn(KnnSettings(k=(20,), temperature=(0.07,), **sets)).metrics
    linear = linear_eval(LinearEvalSettings(preset="small", **sets)).metrics
    kept = {"images": near["images"]}
    for name, found in (("knn", near), ("linear", linear)):
        kept |= {f"{name}_top1": found["top1"], f"{name}_top1_interval": found["top1_interval"]}
    return kept, [percent(kept[f"{name}_top1"], kept[f"{name}_top1_interval"]) for name in ("knn", "linear")]
