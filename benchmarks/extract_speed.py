"""Extraction: what each stage can do alone, what our whole pipeline does, and what others do, on the same images in one run.

python benchmarks/extract_speed.py --data folder:caltech101-34/val --thingsvision OTHER_ENVIRONMENT/bin/python

Images per second of the clock and of CPU time (this process and its workers). Features are compared with those of the
plain loop: cosine, and whether the nearest neighbour's label is the same. The encoder is a ResNet-50 with random weights
whose BN statistics are estimated on the images, unless --checkpoint gives another. Compilation is not counted: it happens on
the first blocks, and its seconds stand in the notes. thingsvision pins old versions: it runs in an environment of its own.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as simsiam_eval sets it; read when torch is imported

import argparse
import gc
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import write_table
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import transforms

from simsiam_eval.checkpoint import load_encoder
from simsiam_eval.distributed import Processes
from simsiam_eval.encoder import Encoder, build_trunk
from simsiam_eval.extraction import Extraction, worker_count, write_extraction
from simsiam_eval.feature_file import read_features
from simsiam_eval.feature_writer import FeatureWriter
from simsiam_eval.inference import FeatureModel
from simsiam_eval.neighbours import search
from simsiam_eval.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from simsiam_eval.settings import FeatureSettings
from simsiam_eval.sources import ImageSource, open_source

CPU = torch.device("cpu")
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
print(json.dumps([len(features), seconds, used, torch.__version__]))
"""


class Stopwatch:
    """Seconds of the clock, and of CPU time of this process and of the workers that have ended."""

    def __enter__(self) -> Stopwatch:
        gc.collect()
        self._clock, self._cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()  # ends the workers of a DataLoader that nobody holds
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
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    rows = np.random.default_rng(0).permutation(len(source))[:128]
    with torch.no_grad():
        for some in np.array_split(rows, 4):
            pixels = torch.stack([PREPROCESSING.pixels(source.image(int(row))) for row in some])
            trunk.train()(PREPROCESSING.normalise(pixels))
    return Encoder(trunk.eval(), "resnet50", "imagenet").eval()


class Photos:
    """The plain loop's data set: torchvision's transform of every image, as the reference evaluates."""

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
    loader = DataLoader(Photos(source, count), 32, num_workers=worker_count(None, source))  # type: ignore[arg-type]
    with torch.no_grad():
        features = np.concatenate([encoder.trunk(batch).numpy() for batch in loader])
    np.save(out, features)
    return features


def lightly_loop(encoder: Encoder, source: ImageSource, count: int, folder: Path) -> np.ndarray | None:
    """The embedding loop of lightly's examples over its own data set and transform of the test images."""
    try:
        from lightly.data import LightlyDataset
    except ImportError:
        return None
    if count < len(source):
        return None
    names = [str(Path(source.paths[row]).relative_to(folder)) for row in range(count)]  # type: ignore[attr-defined]
    data = LightlyDataset(str(folder), transform=Photos(source, 0).transform)
    loader = DataLoader(data, 32, num_workers=worker_count(None, source))
    with torch.no_grad():
        features = torch.cat([encoder.trunk(batch).flatten(1) for batch, _, _ in loader])
    order = {name: row for row, name in enumerate(data.get_filenames())}
    return features.numpy()[[order[name] for name in names]]


def thingsvision_loop(python: str, encoder: Encoder, folder: Path, out: Path) -> tuple[list[Any], np.ndarray]:
    weights = out / "weights.pt"
    torch.save(encoder.trunk.state_dict(), weights)
    done = subprocess.run([python, "-c", THINGSVISION, weights, folder, out], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"thingsvision failed: {done.stderr[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1]), np.load(out / "features.npy")


def ours(
    encoder: Encoder, source: ImageSource, count: int, out: Path, **changed: Any
) -> tuple[np.ndarray, Stopwatch, float]:
    """Features, the time of all images without compilation, and the seconds of the first block with it."""
    settings = FeatureSettings(device="cpu", **({"compile": "off"} | changed))
    work = Extraction(encoder, source, PREPROCESSING, settings, CPU, range(count))
    started = time.perf_counter()
    next(iter(work.compute(work.starts[:1])))
    first = time.perf_counter() - started
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "views": None, "precision": settings.precision}
    with Stopwatch() as watch:
        write_extraction(work, attributes, out, Processes(CPU))
    return read_features(out).features, watch, first


def stages(encoder: Encoder, source: ImageSource, count: int, folder: Path) -> list[tuple[str, Stopwatch]]:
    """Each stage alone, on one core's worth of threads for what is not the forward pass."""
    found = []
    with Stopwatch() as watch:
        images = [source.image(row) for row in range(count)]
    found.append(("decode only, one process", watch))
    with Stopwatch() as watch:
        pixels = torch.stack([PREPROCESSING.pixels(image) for image in images])
    found.append(("resize and crop only, one process", watch))
    del images
    for precision, compiled in (("float32", False), ("float32", True), ("bf16", False), ("bf16", True)):
        model = FeatureModel(encoder, PREPROCESSING, CPU, precision, compiled)
        model(pixels[:16])
        with Stopwatch() as watch:
            for start in range(0, count - 15, 16):
                model(pixels[start : start + 16])
        watch.clock, watch.cpu = (spent * count / (count // 16 * 16) for spent in (watch.clock, watch.cpu))
        found.append((f"forward only, {precision}{', compiled' if compiled else ''}", watch))
    features = np.random.default_rng(0).normal(size=(count, 2048)).astype(np.float32)
    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "views": None, "precision": "float32"}
    with (
        Stopwatch() as watch,
        FeatureWriter(folder / "w.h5", source, {"features": (2048,)}, "float32", attributes) as writer,
    ):
        for start in range(0, count, 16):
            writer.write(start, {"features": features[start : start + 16]})
        writer.sync()
    found.append(("write only", watch))
    return found


def agreement(reference: np.ndarray, features: np.ndarray, labels: np.ndarray) -> list[str]:
    """Least and mean cosine of the rows, and how many keep the label of their nearest neighbour."""
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (reference, features)]
    cosine = (unit[0] * unit[1]).sum(axis=1)
    nearest = [labels[search(one, None, 1)[1][:, 0]] for one in (reference, features)]
    return [f"{cosine.min():.6f}", f"{cosine.mean():.6f}", f"{100 * (nearest[0] == nearest[1]).mean():.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="Image source of files; default: photographs made for this.")
    parser.add_argument("--images", type=int, default=544)
    parser.add_argument("--checkpoint", help="Encoder; default: a ResNet-50 with random weights.")
    parser.add_argument("--thingsvision", help="Python of an environment that has thingsvision.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        source = open_source(asked.data or make_photos(folder / "photos", asked.images))
        root = Path((asked.data or f"folder:{folder / 'photos'}").split(":", 1)[1])
        count = min(asked.images, len(source))
        encoder = load_encoder(asked.checkpoint)[0] if asked.checkpoint else random_encoder(source)
        rows: list[list[str]] = []

        def add(what: str, watch: Stopwatch, *more: str) -> None:
            ratio = [f"{base.cpu / watch.cpu:.2f}"] if base else [""]
            rows.append([what, f"{count / watch.clock:.1f}", f"{count / watch.cpu:.1f}", *ratio, *more])
            print(rows[-1], flush=True)

        base: Stopwatch | None = None
        with Stopwatch() as plain:
            reference = plain_loop(encoder, source, count, folder / "plain.npy")
        base, labels = plain, source.labels[:count]
        for what, watch in stages(encoder, source, count, folder):
            add(what, watch, "", "", "")
        add("plain loop (DataLoader, float32, np.save)", plain, "1", "1", "100")
        compile_seconds = []
        runs: list[tuple[str, dict[str, Any]]] = [
            ("ours, float32", {}),
            ("ours, float32, compiled", {"compile": "on"}),
            ("ours, bf16", {"precision": "bf16"}),
            ("ours, bf16, compiled", {"precision": "bf16", "compile": "on"}),
        ]
        for number, (what, changed) in enumerate(runs):
            features, watch, first = ours(encoder, source, count, folder / f"{number}.h5", **changed)
            add(what, watch, *agreement(reference, features, labels))
            if "compile" in changed:
                compile_seconds.append(f"{first:.0f} s ({what})")
        with Stopwatch() as watch:
            theirs = lightly_loop(encoder, source, count, root)
        if theirs is None:
            rows.append(["lightly", "not installed, or --images", *[""] * 5])
        else:
            add("lightly", watch, *agreement(reference, theirs, labels))
        notes = [f"{count} images of {source.spec if asked.data else 'made photographs, 500 x 375'}; first block with "
                 f"compilation: {', '.join(compile_seconds)}."]  # fmt: skip
        if asked.thingsvision and count == len(source):
            (total, watch.clock, watch.cpu, version), theirs = thingsvision_loop(
                asked.thingsvision, encoder, root, folder
            )
            assert total == count
            add(f"thingsvision (torch {version})", watch, *agreement(reference, theirs, labels))
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
