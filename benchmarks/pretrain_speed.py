"""Pretraining, images per second: the step alone, our loop on JPEG files, the reference pipeline, and lightly's.

All loops alternate on one machine in one run; every number is the median over the repeats, after one warm-up round.
Batches prefetched while another loop runs would make a loop look faster. A loop's queue is emptied before timing, and
the next loop starts only after the workers of the previous one are idle. The images are generated JPEG files; nothing
is downloaded. If lightly is not installed, its row says so.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as simsiam_eval sets it; read when torch is imported

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import write_table
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from views_speed import reference_transform

from pretrain.build import build_model, build_optimizer, open_loader, training_recipe
from pretrain.callback import Callback, Position
from pretrain.health import measure
from pretrain.loader import PREFETCHED
from pretrain.model import SimSiam, parameter_groups
from pretrain.settings import PretrainSettings
from pretrain.train import negative_similarity, train
from simsiam_eval.encoders.architectures import feature_width
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import PathSource

# name: (preset, settings that differ from it, size of the JPEG files)
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "cifar": ("cifar10", {"batch_size": 512}, (32, 32)),
    "imagenet": ("imagenet", {"batch_size": 128}, (500, 375)),  # with larger batches, a round of (3) takes minutes
    "toy32": ("cifar10", {"batch_size": 32}, (32, 32)),
    "toy224": ("imagenet", {"arch": "resnet18", "batch_size": 8}, (500, 375)),
}
Step = Callable[[], None]


@dataclass(frozen=True)
class Loop:
    """A step that consumes the next of `batches`, of which up to `waiting` are prefetched."""

    step: Step
    batches: Iterator[Any] = iter(())
    waiting: int = 0


def make_images(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write `count` JPEG files, random crops of two photographs."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng, paths = np.random.default_rng(0), []
    for index in range(count):
        photo = photos[index % 2]
        x, y = (int(rng.integers(0, margin + 1)) for margin in (photo.width - size[0], photo.height - size[1]))
        paths.append(folder / f"{index:05d}.jpg")
        photo.crop((x, y, x + size[0], y + size[1])).save(paths[-1], quality=90)
    return paths


def step_alone(settings: PretrainSettings, device: torch.device) -> Loop:
    """Forward, backward and SGD on one batch on the device: the upper bound."""
    view1, view2 = torch.randn(2, settings.batch_size, 3, settings.image_size, settings.image_size, device=device)
    return Loop(our_step(settings, device, repeat((view1, view2))))


def our_step(settings: PretrainSettings, device: torch.device, batches: Iterator[Any]) -> Step:
    """A function that trains one step on the next of `batches`."""
    model = build_model(settings, Processes(device))
    optimizer = build_optimizer(settings, model, device)
    recipe = replace(training_recipe(settings, 1, device), epochs=1, warmup_epochs=0)
    return lambda: train(model, optimizer, batches, recipe, Position(), Callback())


def our_loop(settings: PretrainSettings, paths: list[Path], device: torch.device) -> tuple[str, Loop]:
    """Description of the input, and the loop. Small images of one size stay on the device, as in any run."""
    loader = open_loader(settings, PathSource(paths), Processes(device))
    batches = loader.batches(0, 1 << 30)
    description = "JPEG files, decoded once and held on the device" if loader.resident else "JPEG files"
    waiting = 0 if loader.resident else PREFETCHED * (settings.workers or 0)
    return description, Loop(our_step(settings, device, batches), batches, waiting)


class Files:
    """Dataset of image files with a transform that returns the views."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Any]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Any:
        with Image.open(self.paths[row]) as file:
            image = file.convert("RGB")
        return self.transform(image)


class TwoViews:
    """Apply one pipeline twice, like the reference's TwoCropsTransform."""

    def __init__(self, pipeline: Callable[[Image.Image], torch.Tensor]) -> None:
        self.pipeline = pipeline

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        return [self.pipeline(image), self.pipeline(image)]


def forever(dataset: Any, settings: PretrainSettings, workers: int) -> Iterator[Any]:
    loader = DataLoader(dataset, settings.batch_size, shuffle=True, num_workers=workers, drop_last=True,
                        pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
                        prefetch_factor=PREFETCHED if workers else None)  # fmt: skip
    while True:
        yield from loader


def reference_loop(settings: PretrainSettings, paths: list[Path], device: torch.device, workers: int) -> Loop:
    """The reference loop: Pillow views in workers, float32 (TF32 where cuDNN uses it), plain SGD."""
    views = reference_transform(settings.image_size)
    batches = forever(Files(paths, TwoViews(views)), settings, workers)
    model = SimSiam(settings.arch, settings.stem, settings.dim, settings.pred_dim, settings.projector_layers,
                    settings.projector_hidden).to(device)  # fmt: skip
    D = negative_similarity()
    optimizer = torch.optim.SGD(parameter_groups(model, settings.predictor), 0.05, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        view1, view2 = (view.to(device, non_blocking=True) for view in next(batches))
        p1, p2, z1, z2, _ = model(view1, view2)
        loss = 0.5 * (D(p1, z2) + D(p2, z1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Loop(step, batches, PREFETCHED * workers)


def lightly_loop(settings: PretrainSettings, paths: list[Path], device: torch.device, workers: int) -> Loop | None:
    """lightly's transform, heads and loss on the same trunk, in the loop of lightly's SimSiam example."""
    try:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
        from lightly.transforms import SimSiamTransform
    except ImportError:
        return None
    from simsiam_eval.encoders.encoder import build_trunk

    blur = {"gaussian_blur": 0.0} if not settings.blur else {}
    batches = forever(Files(paths, SimSiamTransform(input_size=settings.image_size, **blur)), settings, workers)
    width = feature_width(settings.arch)
    trunk = build_trunk(settings.arch, settings.stem).to(device)
    projector = SimSiamProjectionHead(width, settings.projector_hidden or width, settings.dim).to(device)
    predictor = SimSiamPredictionHead(settings.dim, settings.pred_dim, settings.dim).to(device)
    modules, criterion = torch.nn.ModuleList([trunk, projector, predictor]), NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(modules.parameters(), 0.05)

    def step() -> None:
        z, p = [], []
        for view in next(batches):
            output = projector(trunk(view.to(device, non_blocking=True)))
            z.append(output.detach())
            p.append(predictor(output))
        loss = 0.5 * (criterion(z[0], p[1]) + criterion(z[1], p[0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Loop(step, batches, PREFETCHED * workers)


def collapse_check_seconds(settings: PretrainSettings, device: torch.device, repetitions: int = 20) -> float:
    """Seconds of one collapse check of a batch."""
    width = feature_width(settings.arch)
    features, z1, z2 = (torch.randn(settings.batch_size, d, device=device) for d in (width, settings.dim, settings.dim))
    measure(features, z1, z2)
    started = time.perf_counter()
    for _ in range(repetitions):
        measure(features, z1, z2)  # returns Python numbers, so no GPU work is pending
    return (time.perf_counter() - started) / repetitions


def wait_for(device: torch.device) -> None:
    """Wait until the GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(loop: Loop, steps: int, batch: int, device: torch.device) -> float:
    """Images per second over `steps` steps, or over the number of prefetched batches if that is larger."""
    for _ in range(loop.waiting):
        next(loop.batches)
    steps = max(steps, loop.waiting)
    wait_for(device)
    started = time.perf_counter()
    for _ in range(steps):
        loop.step()
    wait_for(device)
    images_per_second = steps * batch / (time.perf_counter() - started)
    if loop.waiting:
        wait_for_idle_workers()
    return images_per_second


def median_rates(runs: dict[str, Loop], repeats: int, steps: int, batch: int, device: torch.device) -> dict[str, float]:
    """Median rate of each run over alternating rounds, without the first round."""
    rates: dict[str, list[float]] = {run: [] for run in runs}
    for _ in range(repeats + 1):
        for run, loop in runs.items():
            rates[run].append(rate(loop, steps, batch, device))
    return {run: float(np.median(measured[1:])) for run, measured in rates.items()}


def wait_for_idle_workers(timeout: float = 60.0) -> None:
    """Wait until the worker processes are idle because their queues are full."""
    before, deadline = -1.0, time.monotonic() + timeout
    while (now := worker_cpu_seconds()) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.5)


def worker_cpu_seconds() -> float:
    """CPU time of the other processes in this process group, rounded to 0.1 s."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(state[2]) == os.getpgrp() and path.parent.name != str(os.getpid()):
            ticks += int(state[11]) + int(state[12])
    return round(ticks / os.sysconf("SC_CLK_TCK"), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=CASES,
        help="Cases to measure (default: cifar and imagenet on CUDA, toy32 and toy224 on a CPU).",
    )
    parser.add_argument("--steps", type=int, help="Steps per round (default: 50 on CUDA, 4 on a CPU).")
    parser.add_argument("--repeats", type=int, default=3, help="Number of rounds after the warm-up.")
    parser.add_argument("--workers", type=int, help="Number of loading processes (default: one per core, at most 16).")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    workers = args.workers if args.workers is not None else min(16, len(os.sched_getaffinity(0)))
    steps = args.steps or (50 if on_gpu else 4)
    precisions = ("bf16",) if on_gpu else ("float32", "bf16")
    rows = []
    for name in args.cases or (("cifar", "imagenet") if on_gpu else ("toy32", "toy224")):
        preset, overrides, size = CASES[name]
        compiled = {"compile": "cuda-graphs" if preset == "cifar10" else "on"} if on_gpu else {}
        ours = [
            PretrainSettings(
                preset=preset, data="-", out="-", workers=workers, precision=precision, **compiled, **overrides
            )
            for precision in precisions
        ]
        plain = PretrainSettings(preset=preset, data="-", out="-", **overrides)
        with tempfile.TemporaryDirectory() as folder:
            paths = make_images(Path(folder), 8 * plain.batch_size, size)
            runs: dict[str, Loop] = {}
            for settings in ours:
                runs[f"(1) the step alone, {settings.precision}"] = step_alone(settings, device)
                description, loop = our_loop(settings, paths, device)
                our_run = f"(2) our loop on {description}, {settings.precision}"
                runs[our_run] = loop
            if on_gpu:  # --compile off is the default
                _, loop = our_loop(replace(ours[0], compile="off"), paths, device)
                runs[f"(2) the same, not compiled, {ours[0].precision}"] = loop
            runs["(3) the reference's pipeline"] = reference_loop(plain, paths, device, workers)
            if (lightly_run := lightly_loop(plain, paths, device, workers)) is not None:
                runs["(4) lightly"] = lightly_run
            medians = median_rates(runs, args.repeats, steps, plain.batch_size, device)
            del runs, loop, lightly_run
        for run in medians:
            relative = medians[run] / medians["(3) the reference's pipeline"]
            step_ms = f"{1000 * plain.batch_size / medians[run]:.1f}"
            rows.append([name, run, f"{medians[run]:.0f}", step_ms, f"{relative:.2f}"])
        if "(4) lightly" not in medians:
            rows.append([name, "(4) lightly", "not installed", "", ""])
        seconds = collapse_check_seconds(plain, device)
        share = 100 * seconds * medians[our_run] / (plain.health_every * plain.batch_size)
        rows.append([name, f"one collapse check: {share:.3f} % of the time", "", f"{1000 * seconds:.1f}", ""])
        # Written after each case, so that an interrupted run keeps its results.
        write("_".join(["pretrain_speed", device.type, *(args.cases or ())]), rows, workers, steps, args.repeats)


def write(table: str, rows: list[list[str]], workers: int, steps: int, repeats: int) -> None:
    write_table(
        table,
        "Pretraining speed",
        ("case", "run", "images/s", "step, ms", "vs. (3)"),
        rows,
        [
            "; ".join(f"{name}: preset {preset}, {overrides}, JPEG of {size[0]} x {size[1]}"
                      for name, (preset, overrides, size) in CASES.items()),
            f"{workers} workers, {steps} steps per round, medians of {repeats}. Ours: channels-last, "
            "on CUDA fused SGD and, unless noted, torch.compile; (3) and (4): float32, on CUDA with cuDNN's TF32.",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
