"""How much features change when JPEGs are decoded at a reduced scale, or resized by torch instead of Pillow.

A case is an encoder and an image source at a given size: --case NAME CHECKPOINT SPEC RESIZE CROP, repeatable. Each
decoding method is compared with full decoding and Pillow's resize (torchvision's transforms of a PIL image, in
float32). 1-NN uses cosine similarity, leave-one-out: the share of images whose nearest neighbor keeps its label or,
without labels, stays the same image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from report import write_table
from torch.nn.functional import normalize
from torchvision.transforms import functional as transforms

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.images import preprocess
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.sources.opening import open_source

COSINE, AGREEMENT = 0.999, 0.995
METHODS = ("Pillow", "full", "scaled, margin 2", "scaled, margin 1")


def pillow_pixels(source: ImageSource, row: int, resize: int, crop: int) -> torch.Tensor:
    image = transforms.resize(Image.fromarray(source.image(row).pixels()), [resize])
    return transforms.pil_to_tensor(transforms.center_crop(image, [crop, crop]))


def prepare(method: str, source: ImageSource, resize: int, crop: int, rows: list[int]) -> torch.Tensor:
    """(N,3,crop,crop) uint8."""
    if method == "Pillow":
        return torch.stack([pillow_pixels(source, row, resize, crop) for row in rows])
    preprocess.MARGIN = 1.0 if method.endswith("1") else 2.0
    preprocessing = Preprocessing(resize, crop, decode=method.split(",")[0])
    return torch.stack([preprocessing.pixels(source.image(row)) for row in rows])


@torch.inference_mode()
def features(encoder: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    parts = [encoder(Preprocessing().normalize(part)) for part in pixels.split(64)]
    return normalize(torch.cat(parts).double())


def nearest_labels(embeddings: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """(N,) labels of the nearest neighbors, or their indices where an image has no label."""
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-2).argmax(dim=1).numpy()
    return labels[nearest] if (labels >= 0).all() else nearest


def case(
    name: str, checkpoint: str, spec: str, resize: int, crop: int, max_images: int
) -> tuple[list[list[str]], set[str]]:
    """The table rows of a case, and the decoding methods within the bounds."""
    encoder, _ = load_encoder(Path(checkpoint), "pool", "avg")
    encoder.eval()
    source = open_source(spec)
    rows = [row for row in range(len(source)) if min(source.image(row).height, source.image(row).width) >= 2 * resize]
    rows = rows[:: -(-len(rows) // max_images)]
    labels = source.labels[rows]
    pixels = {method: prepare(method, source, resize, crop, rows) for method in METHODS}
    embeddings = {method: features(encoder, pixels[method]) for method in METHODS}
    reference = nearest_labels(embeddings["Pillow"], labels)
    table, passing = [], set()
    for method in METHODS[1:]:
        cosine = (embeddings["Pillow"] * embeddings[method]).sum(dim=1)
        pixel_difference = (pixels["Pillow"].int() - pixels[method].int()).abs().float().flatten(1).mean(dim=1)
        changed = (pixels["full"] != pixels[method]).flatten(1).any(dim=1).double().mean()
        agree = (nearest_labels(embeddings[method], labels) == reference).mean()
        table.append(
            [name, str(len(rows)), f"{resize} / {crop}", method, f"{100 * changed:.0f}", f"{pixel_difference.mean():.2f}",
             f"{cosine.mean():.5f}", f"{cosine.min():.5f}", f"{100 * agree:.1f}"]
        )  # fmt: skip
        print(table[-1], flush=True)
        if cosine.mean() >= COSINE and agree >= AGREEMENT:
            passing.add(method)
    return table, passing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=5, action="append", required=True,
                        metavar=("NAME", "CHECKPOINT", "SPEC", "RESIZE", "CROP"),
                        help="Case to measure; repeatable.")  # fmt: skip
    parser.add_argument("--most", type=int, default=500, help="Maximum number of images per case.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = [
        case(name, path, spec, int(resize), int(crop), args.most) for name, path, spec, resize, crop in args.case
    ]
    passing = [method for method in METHODS[1:] if all(method in methods for _, methods in results)]
    write_table(
        "decode_agreement",
        "Features of images decoded at a reduced scale, compared with Pillow's full decoding and resize",
        ("encoder and images", "images", "resize / crop", "decoding", "scaled %", "pixel difference, gray levels",
         "mean cosine", "min cosine", "1-NN kept %"),
        [row for rows, _ in results for row in rows],
        [
            f"A default must reach a mean cosine of {COSINE} and keep {100 * AGREEMENT} % of 1-NN in every case. "
            f"Methods that do: {', '.join(passing) or 'none'}."
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
