"""JPEGs per second: decoders alone, and the whole roads "resize 256, center crop 224" and "two random resized crops of 224".

`Pillow, PIL` is the reference's road: torchvision's transforms of a PIL image. Every other way decodes to an array and
resizes by torch's uint8 kernel; `ours` is the product's own functions, header and EXIF included. Scaled: decoded at a half,
a quarter or an eighth as far as the result keeps twice the pixels a side that are asked for.

Images: scikit-learn's two photographs at five sizes, quality 90; beyond their own 640 pixels with grain (5 gray levels), so
that a pixel takes the 2 bits that it takes in camera files. --folder: real ones too.
"""

from __future__ import annotations

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import write_table
from sklearn.datasets import load_sample_images
from torchvision import io as torchvision_io
from torchvision.transforms import functional as transforms

from pretrain.build import view_recipe
from pretrain.settings import PretrainSettings
from pretrain.views.parameters import boxes, draw
from simsiam_eval.images.crops import crop_image
from simsiam_eval.images.decode import DecodedImage, open_image
from simsiam_eval.images.preprocess import MARGIN, Preprocessing

SIZES = ((32, 32), (300, 225), (500, 375), (1600, 1200), (4000, 3000))
SIDE = 224
ROADS = ("decode", "resize, crop", "two crops")
File = tuple[bytes, int, list[Any]]  # a JPEG, its short side, and pairs of boxes in it
Decode = Callable[[bytes, float], tuple[Any, int]]


def pillow_array(file: bytes, most: float) -> tuple[np.ndarray, int]:
    factor = next(scale for scale in (8, 4, 2, 1) if scale <= max(most, 1))
    image = Image.open(io.BytesIO(file))
    image.draft("RGB", (image.width // factor, image.height // factor))
    return np.array(image.convert("RGB")), factor


def torchvision_array(file: bytes, most: float) -> tuple[np.ndarray, int]:
    data = torch.frombuffer(bytearray(file), dtype=torch.uint8)
    return torchvision_io.decode_jpeg(data, torchvision_io.ImageReadMode.RGB).permute(1, 2, 0).numpy(), 1


def ours(file: bytes, most: float) -> tuple[np.ndarray, int]:
    return open_image(file).reduced(most)


def installed_decoders() -> dict[str, Decode]:
    """Of the packages that are here."""
    found: dict[str, Decode] = {"torchvision.io": torchvision_array}
    try:
        import simplejpeg

        found["simplejpeg"] = lambda file, most: (simplejpeg.decode_jpeg(file), 1)
    except ImportError:
        pass
    try:
        import cv2

        cv2.setNumThreads(1)
        found["opencv"] = lambda file, most: (cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB), 1)
    except ImportError:
        pass
    try:
        import imagecodecs

        found["imagecodecs"] = lambda file, most: (imagecodecs.jpeg8_decode(file), 1)
    except ImportError:
        pass
    return found


class Way:
    """A decoder, and what is done with what it gives."""

    def __init__(self, decode: Decode, scaled: bool) -> None:
        self.decode, self.scaled = decode, scaled
        self.prepare = Preprocessing(decode="scaled" if scaled else "full")

    def run(self, road: str, file: bytes, short: int, pair: Any) -> None:
        most = short / (MARGIN * self.prepare.resize) if self.scaled else 1
        if road == "decode":
            self.decode(file, most)
        elif road == "two crops":
            least = min(int(box[2:].min()) for box in pair)
            pixels, factor = self.decode(file, least / (MARGIN * SIDE) if self.scaled else 1)
            for box in pair:
                crop_image(pixels, box, SIDE, factor)
        else:
            image = open_image(file) if self.decode is ours else DecodedImage(self.decode(file, most)[0])
            self.prepare.pixels(image)


class PilWay:
    """As the reference does it."""

    def run(self, road: str, file: bytes, short: int, pair: Any) -> None:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        if road == "two crops":
            for box in pair:
                transforms.pil_to_tensor(transforms.resized_crop(image, *map(int, box), [SIDE, SIDE]))
        elif road == "resize, crop":
            transforms.pil_to_tensor(transforms.center_crop(transforms.resize(image, [256]), [SIDE, SIDE]))


def ways() -> dict[str, Any]:
    found: dict[str, Any] = {"Pillow, PIL": PilWay(), "Pillow": Way(pillow_array, False)}
    found |= {name: Way(decode, False) for name, decode in installed_decoders().items()}
    found |= {
        "ours, full": Way(ours, False),
        "Pillow, scaled": Way(pillow_array, True),
        "ours, scaled": Way(ours, True),
    }
    return found


def with_boxes(file: bytes) -> File:
    recipe = view_recipe(PretrainSettings(data="none", out="none", preset="imagenet"))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    image = open_image(file)
    views = [boxes(draw(recipe, rng, 8), image.height, image.width) for _ in range(2)]
    return file, min(image.height, image.width), list(zip(*views, strict=True))


def synthetic(size: tuple[int, int]) -> list[File]:
    files = []
    for photo in load_sample_images().images:
        pixels = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
        if size[0] > photo.shape[1]:
            pixels += np.random.default_rng(0).normal(0, 5, (*pixels.shape[:2], 1))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(with_boxes(file.getvalue()))
    return files


def rate(name: str, road: str, files: list[File], seconds: float) -> float:
    """Images per second."""
    way = ways()[name]
    calls = itertools.cycle([(file, short, pairs[number]) for number in range(8) for file, short, pairs in files])
    way.run(road, *next(calls))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or done < min(len(files), 4):
        way.run(road, *next(calls))
        done += 1
    return done / (time.perf_counter() - started)


def measure(files: list[File], cores: int, repetitions: int, seconds: float) -> list[list[str]]:
    """A row per way: median rates per road, all processes together, the ways one after the other in each repetition."""
    rates: dict[tuple[str, str], list[float]] = {(name, road): [] for name in ways() for road in ROADS}
    with multiprocessing.get_context("fork").Pool(cores, torch.set_num_threads, (1,)) as pool:
        for _ in range(repetitions):
            for name, road in rates:
                rates[name, road].append(sum(pool.starmap(rate, [(name, road, files, seconds)] * cores, chunksize=1)))
    middle = {key: statistics.median(values) for key, values in rates.items()}
    return [
        [name, *(f"{middle[name, road]:.0f}" for road in ROADS)]
        + [f"{middle[name, road] / middle['Pillow, PIL', road]:.2f}" for road in ROADS[1:]]
        for name in ways()
    ]


def cuda_row(files: list[File], seconds: float) -> list[str]:
    """nvJPEG in batches of 64, one process; the resize on the device too."""
    data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file, *_ in files] * (64 // len(files))

    def decoded() -> list[torch.Tensor]:
        return torchvision_io.decode_jpeg(data, torchvision_io.ImageReadMode.RGB, device="cuda")  # type: ignore

    def resized() -> None:
        for image in decoded():
            transforms.center_crop(transforms.resize(image, [256], antialias=True), [SIDE, SIDE])

    def crops() -> None:
        for image, (*_, pairs) in zip(decoded(), itertools.cycle(files), strict=False):
            for box in pairs[0]:
                transforms.resized_crop(image, *map(int, box), [SIDE, SIDE], antialias=True)

    shown = []
    for call in (decoded, resized, crops):
        call()
        torch.cuda.synchronize()
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            call()
            torch.cuda.synchronize()
            done += len(data)
        shown.append(f"{done / (time.perf_counter() - started):.0f}")
    return ["torchvision.io, cuda", *shown, "", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="Real JPEGs, 64 of which are measured too.")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1, help="Of each measurement.")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # torchvision.io says that it will be removed
    sets = {f"{width} x {height}": synthetic((width, height)) for width, height in SIZES}
    if asked.folder:
        paths = sorted(path for path in asked.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        sets[asked.folder.name] = [with_boxes(path.read_bytes()) for path in paths[:: -(-len(paths) // 64)]]
    rows = []
    for name, files in sets.items():
        for cores in sorted({1, len(os.sched_getaffinity(0))}):
            found = measure(files, cores, asked.repetitions, asked.seconds)
            if cores == 1 and torch.cuda.is_available():
                found.append(cuda_row(files, asked.seconds))
            rows += [[name, str(cores), *row] for row in found]
            print("\n".join(map(str, rows[-len(found) :])), flush=True)
    write_table(
        "decode_speed",
        "JPEGs per second",
        ("image", "cores", "decoder", *ROADS, "resize, crop: to PIL", "two crops: to PIL"),
        rows,
        [
            f"Medians of {asked.repetitions} repetitions of {asked.seconds} s, the decoders alternating; one process per "
            "core. The two last columns are ratios to `Pillow, PIL`, the reference's road.",
        ],
    )


if __name__ == "__main__":
    main()
