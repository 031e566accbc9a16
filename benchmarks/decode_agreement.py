"""How far features move when JPEGs are decoded at a smaller scale, or resized by torch and not by Pillow.

Every case is an encoder and images at a size: --case NAME CHECKPOINT SPEC RESIZE CROP, as often as wanted. Each way is
compared with the full decoding resized by Pillow (torchvision's transforms of a PIL image, in float32). 1-NN: cosine, leave
one out; the share of images that keep the label of their nearest neighbor, or, without labels, the neighbor itself.
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
WAYS = ("Pillow", "full", "scaled, margin 2", "scaled, margin 1")


def pillow_pixels(source: ImageSource, row: int, resize: int, crop: int) -> torch.Tensor:
    image = transforms.resize(Image.fromarray(source.image(row).pixels()), [resize])
    return transforms.pil_to_tensor(transforms.center_crop(image, [crop, crop]))


def prepared(way: str, source: ImageSource, resize: int, crop: int, rows: list[int]) -> torch.Tensor:
    """(N,3,crop,crop) uint8."""
    if way == "Pillow":
        return torch.stack([pillow_pixels(source, row, resize, crop) for row in rows])
    preprocess.MARGIN = 1.0 if way.endswith("1") else 2.0
    preparing = Preprocessing(resize, crop, decode=way.split(",")[0])
    return torch.stack([preparing.pixels(source.image(row)) for row in rows])


@torch.inference_mode()
def features(encoder: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    parts = [encoder(Preprocessing().normalize(part)) for part in pixels.split(64)]
    return normalize(torch.cat(parts).double())


def neighbors(found: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    nearest = (found @ found.T).fill_diagonal_(-2).argmax(dim=1).numpy()
    return labels[nearest] if (labels >= 0).all() else nearest


def case(name: str, checkpoint: str, spec: str, resize: int, crop: int, most: int) -> tuple[list[list[str]], set[str]]:
    """Its rows of the table, and the ways that meet the bounds."""
    encoder, _ = load_encoder(Path(checkpoint), "pool", "avg")
    encoder.eval()
    source = open_source(spec)
    rows = [row for row in range(len(source)) if min(source.image(row).height, source.image(row).width) >= 2 * resize]
    rows = rows[:: -(-len(rows) // most)]
    labels = source.labels[rows]
    pixels = {way: prepared(way, source, resize, crop, rows) for way in WAYS}
    found = {way: features(encoder, pixels[way]) for way in WAYS}
    kept = neighbors(found["Pillow"], labels)
    table, good = [], set()
    for way in WAYS[1:]:
        cosine = (found["Pillow"] * found[way]).sum(dim=1)
        apart = (pixels["Pillow"].int() - pixels[way].int()).abs().float().flatten(1).mean(dim=1)
        changed = (pixels["full"] != pixels[way]).flatten(1).any(dim=1).double().mean()
        agree = (neighbors(found[way], labels) == kept).mean()
        table.append(
            [name, str(len(rows)), f"{resize} / {crop}", way, f"{100 * changed:.0f}", f"{apart.mean():.2f}",
             f"{cosine.mean():.5f}", f"{cosine.min():.5f}", f"{100 * agree:.1f}"]
        )  # fmt: skip
        print(table[-1], flush=True)
        if cosine.mean() >= COSINE and agree >= AGREEMENT:
            good.add(way)
    return table, good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=5, action="append", required=True)
    parser.add_argument("--most", type=int, default=500, help="Images of a case.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = [
        case(name, path, spec, int(resize), int(crop), asked.most) for name, path, spec, resize, crop in asked.case
    ]
    good = [way for way in WAYS[1:] if all(way in ways for _, ways in found)]
    write_table(
        "decode_agreement",
        "Features of images decoded at a smaller scale, against Pillow's full decoding and resize",
        ("encoder and images", "images", "resize / crop", "decoding", "scaled %", "pixels apart, gray levels",
         "cosine, mean", "cosine, lowest", "1-NN kept %"),
        [row for rows, _ in found for row in rows],
        [
            f"A default needs a mean cosine of {COSINE} and {100 * AGREEMENT} % of 1-NN kept, in every case. It is met by: "
            f"{', '.join(good) or 'none'}."
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
