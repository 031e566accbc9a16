"""JPEGs per second: decoding alone, "resize 256, center crop 224" and "two random resized crops of 224".

`Pillow, PIL` is the reference pipeline: torchvision's transforms of a PIL image. All other decoders return an array,
which torch's uint8 kernel resizes; `ours` is simsiam_eval's decoding, including headers and EXIF. Scaled: decoded at
1/2, 1/4 or 1/8 as long as each side keeps twice the pixels of the output.

Images: scikit-learn's two photographs at five sizes, quality 90. Images larger than the 640-pixel originals get noise
(5 gray levels), so that they use about 2 bits per pixel like camera files. --folder adds real JPEGs.
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
from simsiam_eval.images.decode import open_image
from simsiam_eval.images.opened import DecodedImage
from simsiam_eval.images.preprocess import MARGIN, Preprocessing

SIZES = ((32, 32), (300, 225), (500, 375), (1600, 1200), (4000, 3000))
SIDE = 224
PIPELINES = ("decode", "resize, crop", "two crops")
File = tuple[bytes, int, list[Any]]  # a JPEG, its short side, and pairs of boxes in it
Decode = Callable[[bytes, float], tuple[Any, int]]


def pillow_array(file: bytes, max_scale: float) -> tuple[np.ndarray, int]:
    factor = next(scale for scale in (8, 4, 2, 1) if scale <= max(max_scale, 1))
    image = Image.open(io.BytesIO(file))
    image.draft("RGB", (image.width // factor, image.height // factor))
    return np.array(image.convert("RGB")), factor


def torchvision_array(file: bytes, max_scale: float) -> tuple[np.ndarray, int]:
    data = torch.frombuffer(bytearray(file), dtype=torch.uint8)
    return torchvision_io.decode_jpeg(data, torchvision_io.ImageReadMode.RGB).permute(1, 2, 0).numpy(), 1


def ours(file: bytes, max_scale: float) -> tuple[np.ndarray, int]:
    return open_image(file).reduced(max_scale)


def installed_decoders() -> dict[str, Decode]:
    """The decoders of the installed packages."""
    installed: dict[str, Decode] = {"torchvision.io": torchvision_array}
    try:
        import simplejpeg

        installed["simplejpeg"] = lambda file, max_scale: (simplejpeg.decode_jpeg(file), 1)
    except ImportError:
        pass
    try:
        import cv2

        cv2.setNumThreads(1)
        mode = cv2.IMREAD_COLOR_RGB
        installed["opencv"] = lambda file, max_scale: (cv2.imdecode(np.frombuffer(file, np.uint8), mode), 1)
    except ImportError:
        pass
    try:
        import imagecodecs

        installed["imagecodecs"] = lambda file, max_scale: (imagecodecs.jpeg8_decode(file), 1)
    except ImportError:
        pass
    return installed


class ArrayPipeline:
    """A decoder that returns an array, followed by simsiam_eval's resize and crops."""

    def __init__(self, decode: Decode, scaled: bool) -> None:
        self.decode, self.scaled = decode, scaled
        self.prepare = Preprocessing(decode="scaled" if scaled else "full")

    def run(self, pipeline: str, file: bytes, short: int, pair: Any) -> None:
        max_scale = short / (MARGIN * self.prepare.resize) if self.scaled else 1
        if pipeline == "decode":
            self.decode(file, max_scale)
        elif pipeline == "two crops":
            shortest = min(int(box[2:].min()) for box in pair)
            pixels, factor = self.decode(file, shortest / (MARGIN * SIDE) if self.scaled else 1)
            for box in pair:
                crop_image(pixels, box, SIDE, factor)
        else:
            image = open_image(file) if self.decode is ours else DecodedImage(self.decode(file, max_scale)[0])
            self.prepare.pixels(image)


class PilPipeline:
    """The reference pipeline: torchvision's transforms of a PIL image."""

    def run(self, pipeline: str, file: bytes, short: int, pair: Any) -> None:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        if pipeline == "two crops":
            for box in pair:
                transforms.pil_to_tensor(transforms.resized_crop(image, *map(int, box), [SIDE, SIDE]))
        elif pipeline == "resize, crop":
            transforms.pil_to_tensor(transforms.center_crop(transforms.resize(image, [256]), [SIDE, SIDE]))


def decoders() -> dict[str, Any]:
    """Row name -> the pipelines of a decoder."""
    pipelines: dict[str, Any] = {"Pillow, PIL": PilPipeline(), "Pillow": ArrayPipeline(pillow_array, False)}
    pipelines |= {name: ArrayPipeline(decode, False) for name, decode in installed_decoders().items()}
    pipelines |= {
        "ours, full": ArrayPipeline(ours, False),
        "Pillow, scaled": ArrayPipeline(pillow_array, True),
        "ours, scaled": ArrayPipeline(ours, True),
    }
    return pipelines


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


def rate(name: str, pipeline: str, files: list[File], seconds: float) -> float:
    """Images per second."""
    decoder = decoders()[name]
    calls = itertools.cycle([(file, short, pairs[index]) for index in range(8) for file, short, pairs in files])
    decoder.run(pipeline, *next(calls))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or done < min(len(files), 4):
        decoder.run(pipeline, *next(calls))
        done += 1
    return done / (time.perf_counter() - started)


def measure(files: list[File], cores: int, repetitions: int, seconds: float) -> list[list[str]]:
    """One row per decoder with each pipeline's median rate, summed over processes; decoders alternate."""
    rates: dict[tuple[str, str], list[float]] = {(name, pipeline): [] for name in decoders() for pipeline in PIPELINES}
    with multiprocessing.get_context("fork").Pool(cores, torch.set_num_threads, (1,)) as pool:
        for _ in range(repetitions):
            for name, pipeline in rates:
                rates[name, pipeline].append(
                    sum(pool.starmap(rate, [(name, pipeline, files, seconds)] * cores, chunksize=1))
                )
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return [
        [name, *(f"{medians[name, pipeline]:.0f}" for pipeline in PIPELINES)]
        + [f"{medians[name, pipeline] / medians['Pillow, PIL', pipeline]:.2f}" for pipeline in PIPELINES[1:]]
        for name in decoders()
    ]


def cuda_row(files: list[File], seconds: float) -> list[str]:
    """nvJPEG in batches of 64 in one process; the resize runs on the GPU as well."""
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

    rates = []
    for call in (decoded, resized, crops):
        call()
        torch.cuda.synchronize()
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            call()
            torch.cuda.synchronize()
            done += len(data)
        rates.append(f"{done / (time.perf_counter() - started):.0f}")
    return ["torchvision.io, cuda", *rates, "", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="Folder of real JPEGs, of which 64 are also measured.")
    parser.add_argument("--repetitions", type=int, default=3, help="Number of repetitions.")
    parser.add_argument("--seconds", type=float, default=0.1, help="Seconds per measurement.")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # torchvision.io is deprecated
    sets = {f"{width} x {height}": synthetic((width, height)) for width, height in SIZES}
    if args.folder:
        paths = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        sets[args.folder.name] = [with_boxes(path.read_bytes()) for path in paths[:: -(-len(paths) // 64)]]
    rows = []
    for name, files in sets.items():
        for cores in sorted({1, len(os.sched_getaffinity(0))}):
            measured = measure(files, cores, args.repetitions, args.seconds)
            if cores == 1 and torch.cuda.is_available():
                measured.append(cuda_row(files, args.seconds))
            rows += [[name, str(cores), *row] for row in measured]
            print("\n".join(map(str, rows[-len(measured) :])), flush=True)
    write_table(
        "decode_speed",
        "JPEGs per second",
        ("image", "cores", "decoder", *PIPELINES, "resize, crop: to PIL", "two crops: to PIL"),
        rows,
        [
            f"Medians of {args.repetitions} repetitions of {args.seconds} s, the decoders alternating; one process per "
            "core. The last two columns are ratios to `Pillow, PIL`, the reference pipeline.",
        ],
    )


if __name__ == "__main__":
    main()
