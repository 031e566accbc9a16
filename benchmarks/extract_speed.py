"""Extraction: what each stage can do alone, what our whole pipeline does, and what others do, on the same images in one run.

python benchmarks/extract_speed.py --data folder:caltech101-34/val --thingsvision OTHER_ENVIRONMENT/bin/python

Images per second of the clock and of CPU time (this process and its workers). Features are compared with those of the
plain loop: cosine, and whether the nearest neighbor's label is the same. The encoder is a ResNet-50 with random weights
whose BN statistics are estimated on the images, unless --checkpoint gives another. Compilation is not counted.
thingsvision pins old versions: it runs in an environment of its own.
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
from simsiam_eval.encoders.encoder import Encoder, build_trunk
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.fused_blocks import fuse_blocks
from simsiam_eval.extraction.inference import FeatureModel, fold_batch_norms
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.to_file import write_extraction
from simsiam_eval.features.reader import read_features
from simsiam_eval.features.writer import FeatureWriter
from simsiam_eval.images.decode import DecodedImage
from simsiam_eval.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from simsiam_eval.runtime.batch_norm import mean_bn_statistics
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source

CPU, BLOCK = torch.device("cpu"), 8  # images, as extraction chooses
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
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
started, used = time.perf_counter(), cpu()
features = extractor.extract_features(batches=DataLoader(dataset=dataset, batch_size=32, backend="pt"),
                                      module_name="avgpool", flatten_acts=True, output_type="ndarray")
seconds, used = time.perf_counter() - started, cpu() - used
np.save(out + "/features.npy", features)
print(json.dumps([seconds, used]))
"""


class Stopwatch:
    """Seconds of the clock, and of CPU time of this process and of the workers that have ended."""

    def __enter__(self) -> Stopwatch:
        gc.collect()
        gc.freeze()  # else the collection at the end looks at all that torch has made: a third of a second
        self._clock, self._cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()  # ends the workers of a DataLoader that nobody holds
        gc.unfreeze()
        self.clock, self.cpu = time.perf_counter() - self._clock, cpu_seconds() - self._cpu


def cpu_seconds() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def make_photos(folder: Path, count: int) -> str:
    """A source of `count` photographs of 500 x 375 in two classes: parts of two photographs."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(count):
        place = folder / f"class{number % 2}"
        place.mkdir(exist_ok=True)
        x, y = int(rng.integers(140)), int(rng.integers(52))
        photos[number % 2].crop((x, y, x + 500, y + 375)).save(place / f"{number:05d}.jpg", quality=90)
    return f"folder:{folder}"


def random_encoder(source: ImageSource) -> Encoder:
    torch.manual_seed(0)
    trunk = build_trunk("resnet50")
    rows = np.random.default_rng(0).permutation(len(source))[:128]
    with torch.no_grad(), mean_bn_statistics(trunk):
        for part in np.array_split(rows, 4):
            pixels = torch.stack([PREPROCESSING.pixels(source.image(int(row))) for row in part])
            trunk.train()(PREPROCESSING.normalize(pixels))
    return Encoder(trunk.eval(), "resnet50", "imagenet").eval()


class Photos:
    """The plain loop's dataset: torchvision's transform of every image, as the reference evaluates."""

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


def plain_loop(encoder: Encoder, source: ImageSource, count: int, out: Path) -> np.ndarray:
    """ImageFolder's way: a DataLoader, a float32 model, a list, np.save."""
    loader = DataLoader(Photos(source, count), 32, num_workers=worker_count(None))  # type: ignore[arg-type]
    with torch.no_grad():
        features = np.concatenate([encoder.trunk(batch).numpy() for batch in loader])
    np.save(out, features)
    return features


def lightly_loop(encoder: Encoder, source: ImageSource, count: int, folder: Path) -> np.ndarray:
    """The embedding loop of lightly's examples over its own dataset and transform of the test images."""
    from lightly.data import LightlyDataset

    names = [str(Path(source.paths[row]).relative_to(folder)) for row in range(count)]  # type: ignore[attr-defined]
    data = LightlyDataset(str(folder), transform=Photos(source, 0).transform)
    loader = DataLoader(data, 32, num_workers=worker_count(None))
    with torch.no_grad():
        features = torch.cat([encoder.trunk(batch).flatten(1) for batch, _, _ in loader])
    order = {name: row for row, name in enumerate(data.get_filenames())}
    return features.numpy()[[order[name] for name in names]]


def thingsvision_loop(python: str, encoder: Encoder, folder: Path, out: Path) -> tuple[Stopwatch, np.ndarray]:
    """Its own count of its time: without the start of its process."""
    weights, watch = out / "weights.pt", Stopwatch()
    torch.save(encoder.trunk.state_dict(), weights)
    done = subprocess.run([python, "-c", THINGSVISION, weights, folder, out], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"thingsvision failed: {done.stderr[-1500:]}")
    watch.clock, watch.cpu = json.loads(done.stdout.splitlines()[-1])
    return watch, np.load(out / "features.npy")


def ours(
    encoder: Encoder, source: ImageSource, count: int, folder: Path, **changed: Any
) -> tuple[Stopwatch, np.ndarray]:
    """The time of all images without compilation, and their features."""
    settings = ExtractionOptions(**changed)
    work = Extraction(encoder, source, PREPROCESSING, settings, CPU, range(count))
    next(iter(work.compute(work.starts[:1])))
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "views": None, "precision": settings.precision}
    out = folder / f"{time.monotonic_ns()}.h5"
    watch, _ = timed(write_extraction, work, attributes, out, Processes(CPU))
    return watch, read_features(out).features


def stages(
    encoder: Encoder, source: ImageSource, count: int, folder: Path
) -> dict[str, Callable[[], tuple[Stopwatch, None]]]:
    """Each stage alone: forward passes in blocks with a core for each, what is not a forward pass with one process."""
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
        """As `map_blocks` does."""
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(model, pixels.split(BLOCK)))
        torch.set_num_threads(threads)

    found: dict[str, Callable[[], tuple[Stopwatch, None]]] = {}
    for name, run in (("decode", decode), ("resize and crop", preprocess), ("write", write)):
        found[f"{name} only, one process"] = partial(timed, run)
    for precision, compiled in itertools.product(("float32", "bf16"), (False, True)):
        model = FeatureModel(encoder, PREPROCESSING, CPU, precision, compiled)
        timed(forward, model)  # compiled before the time counts
        found[f"forward only, {precision}{', compiled' if compiled else ''}"] = partial(timed, forward, model)
    return found | {f"forward only, {name}": partial(timed, run) for name, run in choices(encoder, pixels).items()}


def choices(encoder: Encoder, pixels: torch.Tensor) -> dict[str, Callable[[], None]]:
    """The forward pass of a plain loop, and with one of our choices after the other: the next is "float32", in blocks of 8
    with a core for each."""

    def forward(model: Encoder, layout: torch.memory_format) -> None:
        with torch.no_grad():
            for some in pixels.split(32):
                model.trunk(PREPROCESSING.normalize(some).to(memory_format=layout))

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


def timed(run: Callable[..., Any], *given: Any) -> tuple[Stopwatch, Any]:
    with Stopwatch() as watch:
        result = run(*given)
    return watch, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Image source of files; default: photographs made for this.")
    parser.add_argument("--images", type=int, default=544)
    parser.add_argument("--checkpoint", help="Encoder; default: a ResNet-50 with random weights.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--thingsvision", help="Python of an environment that has thingsvision.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        source = open_source(asked.data or make_photos(folder / "photos", asked.images))
        root = Path((asked.data or f"folder:{folder / 'photos'}").split(":", 1)[1])
        count = min(asked.images, len(source))
        encoder = load_encoder(asked.checkpoint)[0] if asked.checkpoint else random_encoder(source)
        labels, plain = source.labels[:count], "plain loop (DataLoader, float32, np.save)"
        runs: dict[str, Callable[[], tuple[Stopwatch, np.ndarray | None]]] = {
            plain: lambda: timed(plain_loop, encoder, source, count, folder / "plain.npy")
        }
        runs |= stages(encoder, source, count, folder)
        for precision, compiled in itertools.product(("float32", "bf16"), ("off", "on")):
            name = f"ours, {precision}{', compiled' if compiled == 'on' else ''}"
            runs[name] = partial(ours, encoder, source, count, folder, precision=precision, compile=compiled)
        if importlib.util.find_spec("lightly") and count == len(source):
            runs["lightly"] = lambda: timed(lightly_loop, encoder, source, count, root)
        if asked.thingsvision and count == len(source):
            runs["thingsvision"] = lambda: thingsvision_loop(asked.thingsvision, encoder, root, folder)
        watches: dict[str, list[Stopwatch]] = {name: [] for name in runs}
        features: dict[str, np.ndarray | None] = {}
        for _ in range(asked.rounds):
            for name, run in runs.items():
                watch, features[name] = run()
                watches[name].append(watch)
                print(f"{name}: {count / watch.clock:.1f} images/s", flush=True)
        cpu = {name: statistics.median(one.cpu for one in found) for name, found in watches.items()}
        rows, reference = [], features[plain]
        assert reference is not None
        for name, found in watches.items():
            clock, own = statistics.median(one.clock for one in found), features[name]
            near = ["", "", ""]
            if own is not None:
                cosine, kept, now = agreement(reference, own, labels)
                near = [f"{cosine.min():.6f}", f"{cosine.mean():.6f}", f"{100 * (kept == now).mean():.1f}"]
            speeds = (f"{count / clock:.1f}", f"{count / cpu[name]:.1f}", f"{cpu[plain] / cpu[name]:.2f}")
            rows.append([name, *speeds, *near])
        notes = [
            f"{count} images of {source.spec if asked.data else 'made photographs, 500 x 375'}; medians of {asked.rounds} "
            "rounds, in each of which everything runs once. Compilation is not counted.",
            "Writing so few rows is making, syncing and renaming a file: what a row costs is in feature_file_writing.md.",
        ]
        write_table(
            "extract_speed",
            "Extraction, images per second (ResNet-50 at 224 px)",
            ("what runs", "images/s", "images per CPU-second", "of the plain loop", "least cosine", "mean cosine",
             "same 1-NN label, %"),
            rows,
            notes,
        )  # fmt: skip


if __name__ == "__main__":
    main()
