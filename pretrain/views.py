from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms import functional as F


@dataclass
class ViewParameters:
    u: np.ndarray
    area: float

    def __getitem__(self, s):
        return ViewParameters(self.u[s], self.area)


def draw(recipe, rng, count):
    return ViewParameters(rng.random((count, 6)), recipe.crop_area)


def boxes(p, h, w):
    s = np.sqrt(p.area + (1 - p.area) * p.u[:, 0])
    bh, bw = np.maximum(1, (h * s).astype(int)), np.maximum(1, (w * s).astype(int))
    return np.stack([((h - bh) * p.u[:, 1]).astype(int), ((w - bw) * p.u[:, 2]).astype(int), bh, bw], 1)


def crop_image(image, box, side):
    return F.pil_to_tensor(F.resized_crop(image, *map(int, box), [side, side]))


def crop_resident(pixels, rows, chosen, side):
    return torch.stack(
        [F.resized_crop(pixels[r], *map(int, b), [side, side], antialias=True) for r, b in zip(rows.tolist(), chosen)]
    )


def augment(crops, p, mean, std):
    x = crops.float() * torch.from_numpy(0.6 + 0.8 * p.u[:, 3]).float().view(-1, 1, 1, 1).to(crops.device)
    m = torch.tensor(mean, device=x.device).view(3, 1, 1)
    s = torch.tensor(std, device=x.device).view(3, 1, 1)
    return (x.clamp(0, 255) / 255 - m) / s
