"""Extraction speed: each stage alone, our full pipeline, and other libraries, on the same images in one run.

python benchmarks/extract_speed.py --data folder:caltech101-34/val --thingsvision OTHER_ENVIRONMENT/bin/python

Reports images per second of wall-clock time and of CPU time (this process and its workers). Features are compared with
those of the plain loop: cosine similarity, and whether the nearest neighbor has the same label. Without --checkpoint,
the encoder is a ResNet-50 with random weights whose BN statistics are estimated on the images. Compilation time is
excluded. thingsvision pins old package versions, so it runs in a separate environment.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as simsiam_eval sets it; read when torch is imported

import argparse
import copy
import gc
import importlib.util
import itertools
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from feature_agreement import agreement
from PIL import Image
from report import write_table
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import transforms

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.fused_blocks import fuse_blocks
from simsiam_eval.extraction.inference import FeatureModel, fold_batch_norms
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.to_file import write_extraction
from simsiam_eval.features.reader import read_features
from simsiam_eval.features.writer import FeatureWriter
from simsiam_eval.images.opened import DecodedImage
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.batch_norm import mean_bn_statistics
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source
from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

CPU, BLOCK = torch.device("cpu"), 8  # images per block, extraction's default
PREPROCESSING = Preprocessing()
THINGSVISION = """
import json, resource, sys, time
import numpy as np, torch
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import ImageDataset, DataLoader
from torchvision import models, transforms
weights, folder, out = sys.argv[1:]
model = models.resnet50()
state = torch.load(weights)
model.load_state_dict(state, strict=False)
extractor = get_extractor_from_model(model=model.eval(), device="cpu", backend="pt")
dataset = ImageDataset(root=folder, out_path=out, backend="pt", transforms=transforms.Compose([
    transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]))
def cpu():
    return sum(sum(resource.getrusage(process)[:2]) for process in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
started, used = time.perf_counter(), cpu()
features = extractor.extract_features(batches=DataLoader(dataset=dataset, batch_size=32, backend="pt"),
                                      module_name="avgpool", flatten_acts=True, output_type="ndarray")
seconds, used = time.perf_counter() - started, cpu() - used
np.save(out + "/features.npy", features)
print(json.dumps([seconds, used]))
"""


class Stopwatch:
    """Seconds of wall-clock time, and of CPU time of this process and its finished workers."""

    def __enter__(self) -> Stopwatch:
        gc.collect()
        gc.freeze()  # otherwise the final collection also scans torch's objects, which takes a third of a second
        self._clock, self._cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()  # ends the workers of unreferenced DataLoaders
        gc.unfreeze()
        self.clock, self.cpu = time.perf_counter() - self._clock, cpu_seconds() - self._cpu


def cpu_seconds() -> float:
    return sum(sum(resource.getrusage(process)[:2]) for process in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def make_photos(folder: Path, count: int) -> str:
    """Write `count` crops of 500 x 375 from two photographs, one class each, and return the source spec."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for index in range(count):
        class_folder = folder / f"class{index % 2}"
        class_folder.mkdir(exist_ok=True)
        x, y = int(rng.integers(140)), int(rng.integers(52))
        photos[index % 2].crop((x, y, x + 500, y + 375)).save(class_folder / f"{index:05d}.jpg", quality=90)
    return f"folder:{folder}"


def random_encoder(source: ImageSource) -> ResNetEncoder:
    torch.manual_seed(0)
    trunk = build_trunk("resnet50")
    rows = np.random.default_rng(0).permutation(len(source))[:128]
    with torch.no_grad(), mean_bn_statistics(trunk):
        for part in np.array_split(rows, 4):
            pixels = torch.stack([PREPROCESSING.pixels(source.image(int(row))) for row in part])
            trunk.train()(PREPROCESSING.normalize(pixels))
    return ResNetEncoder(trunk.eval(), "resnet50", "imagenet").eval()


class Photos:
    """The plain loop's dataset, with the reference's evaluation transform from torchvision."""

    def __init__(self, source: ImageSource, count: int) -> None:
        self.paths, self.count = [source.paths[row] for row in range(count)], count  # type: ignore[attr-defined]
        self.transform = transforms.Compose(
            [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
             transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        )  # fmt: skip

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.paths[row]) as file:
            return self.transform(file.convert("RGB"))


def plain_loop(encoder: ResNetEncoder, source: ImageSource, count: int, out: Path) -> np.ndarray:
    """A typical script: a DataLoader, a float32 model, a list of batches, np.save."""
    loader = DataLoader(Photos(source, count), 32, num_workers=worker_count(None))  # type: ignore[arg-type]
    with torch.no_grad():
        features = np.concatenate([encoder.trunk(batch).numpy() for batch in loader])
    np.save(out, features)
    return features


def lightly_loop(encoder: ResNetEncoder, source: ImageSource, count: int, folder: Path) -> np.ndarray:
    """The embedding loop of lightly's examples, with lightly's dataset and the plain loop's transform."""
    from lightly.data import LightlyDataset

    names = [str(Path(source.paths[row]).relative_to(folder)) for row in range(count)]  # type: ignore[attr-defined]
    data = LightlyDataset(str(folder), transform=Photos(source, 0).transform)
    loader = DataLoader(data, 32, num_workers=worker_count(None))
    with torch.no_grad():
        features = torch.cat([encoder.trunk(batch).flatten(1) for batch, _, _ in loader])
    order = {name: row for row, name in enumerate(data.get_filenames())}
    return features.numpy()[[order[name] for name in names]]


def thingsvision_loop(python: str, encoder: ResNetEncoder, folder: Path, out: Path) -> tuple[Stopwatch, np.ndarray]:
    """thingsvision's extraction, timed inside its process, so that its startup is excluded."""
    weights, watch = out / "weights.pt", Stopwatch()
    torch.save(encoder.trunk.state_dict(), weights)
    process = subprocess.run([python, "-c", THINGSVISION, weights, folder, out], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"thingsvision failed: {process.stderr[-1500:]}")
    watch.clock, watch.cpu = json.loads(process.stdout.splitlines()[-1])
    return watch, np.load(out / "features.npy")


def ours(
    encoder: ResNetEncoder, source: ImageSource, count: int, folder: Path, **overrides: Any
) -> tuple[Stopwatch, np.ndarray]:
    """Time of our extraction without compilation, and the features."""
    options = ExtractionOptions(**overrides)
    extraction = Extraction(encoder, source, PREPROCESSING, options, CPU, range(count))
    next(iter(extraction.compute(extraction.starts[:1])))
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "views": None, "precision": options.precision}
    out = folder / f"{time.monotonic_ns()}.h5"
    watch, _ = timed(write_extraction, extraction, attributes, out, Processes(CPU))
    return watch, read_features(out).features


def stages(
    encoder: ResNetEncoder, source: ImageSource, count: int, folder: Path
) -> dict[str, Callable[[], tuple[Stopwatch, None]]]:
    """Each stage alone: forward passes with one block per core, all other stages in one process."""
    images = [DecodedImage(source.image(row).pixels()) for row in range(count)]
    pixels = torch.stack([PREPROCESSING.pixels(image) for image in images])
    features = np.random.default_rng(0).normal(size=(count, 2048)).astype(np.float32)
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "views": None, "precision": "float32"}

    def decode() -> None:
        for row in range(count):
            source.image(row).pixels()

    def preprocess() -> None:
        for image in images:
            PREPROCESSING.pixels(image)

    def write() -> None:
        out = folder / f"{time.monotonic_ns()}.h5"
        with FeatureWriter(out, source, {"features": (2048,)}, "float32", attributes) as writer:
            for start in range(0, count, BLOCK):
                writer.write(start, {"features": features[start : start + BLOCK]})
            writer.sync()

    def forward(model: FeatureModel) -> None:
        """Run one block per core, as `map_blocks` does."""
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(model, pixels.split(BLOCK)))
        torch.set_num_threads(threads)

    timers: dict[str, Callable[[], tuple[Stopwatch, None]]] = {}
    for name, run in (("decode", decode), ("resize and crop", preprocess), ("write", write)):
        timers[f"{name} only, one process"] = partial(timed, run)
    for precision, compiled in itertools.product(("float32", "bf16"), (False, True)):
        model = FeatureModel(encoder, PREPROCESSING, CPU, precision, compiled)
        timed(forward, model)  # compile before timing
        timers[f"forward only, {precision}{', compiled' if compiled else ''}"] = partial(timed, forward, model)
    return timers | {
        f"forward only, {name}": partial(timed, run) for name, run in optimizations(encoder, pixels).items()
    }


def optimizations(encoder: ResNetEncoder, pixels: torch.Tensor) -> dict[str, Callable[[], None]]:
    """The plain loop's forward pass with our optimizations added one by one.

    The next step, blocks of 8 with one core each, is the row "float32" of `stages`.
    """

    def forward(model: ResNetEncoder, layout: torch.memory_format) -> None:
        with torch.no_grad():
            for batch in pixels.split(32):
                model.trunk(PREPROCESSING.normalize(batch).to(memory_format=layout))

    def prepared(folded: bool, layout: torch.memory_format, fused: bool = False) -> Callable[[], None]:
        model = copy.deepcopy(encoder)
        model = fold_batch_norms(model) if folded else model
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        if fused:
            fuse_blocks(model.trunk)
        return partial(forward, model, layout)

    return {
        "a plain model, blocks of 32": prepared(False, torch.contiguous_format),
        "a plain model, channels-last": prepared(False, torch.channels_last),
        "a plain model, channels-last, BN folded": prepared(True, torch.channels_last),
        "a plain model, channels-last, BN folded, ReLUs and sums fused": prepared(
            True, torch.channels_last, fused=True
        ),
    }


def timed(run: Callable[..., Any], *arguments: Any) -> tuple[Stopwatch, Any]:
    with Stopwatch() as watch:
        result = run(*arguments)
    return watch, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Image source of files (default: crops of two photographs).")
    parser.add_argument("--images", type=int, default=544, help="Maximum number of images.")
    parser.add_argument("--checkpoint", help="ResNetEncoder checkpoint (default: a ResNet-50 with random weights).")
    parser.add_argument("--rounds", type=int, default=3, help="Number of rounds.")
    parser.add_argument("--thingsvision", help="Python executable of an environment with thingsvision.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        source = open_source(args.data or make_photos(folder / "photos", args.images))
        root = Path((args.data or f"folder:{folder / 'photos'}").split(":", 1)[1])
        count = min(args.images, len(source))
        encoder = load_encoder(args.checkpoint)[0] if args.checkpoint else random_encoder(source)
        labels, plain = source.labels[:count], "plain loop (DataLoader, float32, np.save)"
        runs: dict[str, Callable[[], tuple[Stopwatch, np.ndarray | None]]] = {
            plain: lambda: timed(plain_loop, encoder, source, count, folder / "plain.npy")
        }
        runs |= stages(encoder, source, count, folder)
        for precision, compiled in itertools.product(("float32", "bf16"), (False, True)):
            name = f"ours, {precision}{', compiled' if compiled else ''}"
            runs[name] = partial(ours, encoder, source, count, folder, precision=precision, compile=compiled)
        if importlib.util.find_spec("lightly") and count == len(source):
            runs["lightly"] = lambda: timed(lightly_loop, encoder, source, count, root)
        if args.thingsvision and count == len(source):
            runs["thingsvision"] = lambda: thingsvision_loop(args.thingsvision, encoder, root, folder)
        watches: dict[str, list[Stopwatch]] = {name: [] for name in runs}
        features: dict[str, np.ndarray | None] = {}
        for _ in range(args.rounds):
            for name, run in runs.items():
                watch, features[name] = run()
                watches[name].append(watch)
                print(f"{name}: {count / watch.clock:.1f} images/s", flush=True)
        cpu = {name: statistics.median(watch.cpu for watch in measured) for name, measured in watches.items()}
        rows, reference = [], features[plain]
        assert reference is not None
        for name, measured in watches.items():
            clock, embeddings = statistics.median(watch.clock for watch in measured), features[name]
            comparison = ["", "", ""]
            if embeddings is not None:
                cosine, expected, got = agreement(reference, embeddings, labels)
                comparison = [f"{cosine.min():.6f}", f"{cosine.mean():.6f}", f"{100 * (expected == got).mean():.1f}"]
            speeds = (f"{count / clock:.1f}", f"{count / cpu[name]:.1f}", f"{cpu[plain] / cpu[name]:.2f}")
            rows.append([name, *speeds, *comparison])
        notes = [
            f"{count} images of {source.spec if args.data else 'crops of two photographs, 500 x 375'}; medians of "
            f"{args.rounds} rounds, each of which runs everything once. Compilation time is excluded.",
            'With so few rows, "write" mostly creates, syncs and renames a file; see feature_file_writing.md.',
        ]
        write_table(
            "extract_speed",
            "Extraction, images per second (ResNet-50 at 224 px)",
            ("what runs", "images/s", "images per CPU-second", "vs. plain loop", "min cosine", "mean cosine",
             "same 1-NN label, %"),
            rows,
            notes,
        )  # fmt: skip


if __name__ == "__main__":
    main()
