"""The steps of a view on n images at once, each with its own parameters; x is float32 in gray levels.

Plain torch on any device; no control flow depends on a value, so that each step compiles to one graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def gray(x: Tensor) -> Tensor:
    """(n,3,P) -> (n,P): ITU-R 601 in Pillow's 16-bit fixed point, exact in float32 for whole gray levels."""
    level = x[:, 0] * (19595 / 65536)
    return level.add_(x[:, 1], alpha=38470 / 65536).add_(x[:, 2], alpha=7471 / 65536).add_(0.5).floor_()


def blend_(x: Tensor, factor: Tensor, own_gray: Tensor | None, mean_gray: Tensor | None) -> None:
    """Brightness, contrast or saturation per image, in place: `factor` parts of the image, blended with black, with
    `mean_gray` parts of its mean gray level, or with `own_gray` parts of each pixel's own gray level.

    Args:
        x: (n,3,P).
        factor, own_gray, mean_gray: (n,1,1); 1, 0, 0 leaves an image as it is. None where all are 0.
    """
    if own_gray is None and mean_gray is None:
        x.mul_(factor)
    else:
        level = gray(x)[:, None]
        # Pillow truncates: a blend of equal levels must not lie just below them.
        other: Tensor | float = 1e-4
        if mean_gray is not None:
            other = level.mean(dim=2, keepdim=True).add_(0.5).floor_().mul_(mean_gray).add_(1e-4)
        if own_gray is None:
            x.mul_(factor).add_(other)
        else:
            torch.addcmul(level.mul_(own_gray).add_(other), x, factor, out=x)
    x.clamp_(0, 255).floor_()


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """(n,3,P) -> (n,3,P), the hue shifted by `shift` (n,1), whole 1/256 turns in [0,256), through Pillow's 8-bit HSV.

    Without conditions, each of which costs as much as four arithmetic operations on a CPU: with v the maximum and c the
    range of r, g and b, the hue in sixths of a turn is 3 + u if g >= b, else 3 - u, with u = (g + b - r - v) / c - 1.
    A compiled division on a GPU may fall just short of a whole quotient, which is then truncated: so .0005 is added to the
    hue, which is whole or at least 1/510 from it, and .1/v to the saturation, which is whole or at least 1/v from it.
    """
    red, green, blue = x.unbind(1)
    value = torch.maximum(green, blue).maximum(red)
    chroma = torch.minimum(green, blue).minimum(red).neg_().add_(value)
    hue = torch.add(green, blue).sub_(red).sub_(value).sub_(chroma).div_(chroma.clamp(min=1))
    hue.mul_(torch.sub(green, blue).mul_(85).add_(42.5).clamp_(-42.5, 42.5)).add_(127.5005).floor_()
    hue.add_(shift)
    hue.sub_(torch.sub(hue, 255).clamp_(0, 1), alpha=256)
    # value x saturation: the chroma, except that the saturation has 8 bits
    depth = chroma.mul_(255).add_(0.1).div_(value.clamp(min=1)).floor_().mul_(value).mul_(1 / 255)
    hue.mul_(6 / 255)
    # How far each channel is below the value, as a share of the depth: min(2, max(1, |hue - h|)) - 1 with h = 2 for green
    # and 4 for blue; red has the complement, with h = 3. The 0.5 is for rounding.
    highest = value.add_(0.5).add_(depth)
    green = torch.addcmul(highest, (hue - 2).abs_().clamp_(1, 2), depth, value=-1)
    blue = torch.addcmul(highest, (hue - 4).abs_().clamp_(1, 2), depth, value=-1)
    red = torch.addcmul(highest.sub_(depth, alpha=3), hue.sub_(3).abs_().clamp_(1, 2), depth)
    return torch.stack([red, green, blue], dim=1).floor_()


def warp(x: Tensor, matrices: Tensor) -> Tensor:
    """(n,3,S,S) images by the inverse affine map (n,2,3) from view to image, in pixels: bilinear, 0 outside."""
    size = x.shape[-1]
    centers = torch.arange(size, device=x.device) + 0.5
    a, b, c = matrices[:, None, None].unbind(-1)  # each (n,1,1,2): x and y
    positions = a * centers[:, None] + (b * centers[:, None, None] + c)
    inside = ((positions >= 0) & (positions < size)).all(dim=-1)
    warped = F.grid_sample(x, positions * (2 / size) - 1, mode="bilinear", padding_mode="border", align_corners=False)
    # Pillow truncates doubles: a value that is whole there may lie just below in float32.
    return warped.add_(1e-3).floor_().mul_(inside[:, None])


_REACH = 6  # pixels to each side that a blur of the maximum radius reads: three boxes of two
_BLOCK = 32  # pixels of a line that one matrix computes


def blur(x: Tensor, taps: Tensor) -> Tensor:
    """Pillow's Gaussian blur of (n,3,S,S): three box blurs each way, the edge pixel repeated, as matrices.

    Three boxes read only `_REACH` neighbors, so lines are computed in blocks, each from a window around it. A window's
    matrix is exact at an edge of the window that is an edge of the image; blocks keep `_REACH` from other edges.

    Args:
        taps: (n,5), the weights of one box blur.
    """
    size = x.shape[-1]
    window = min(size, _BLOCK + 2 * _REACH)
    box = (taps @ _shifts(window, x.device)).view(-1, window, window)
    matrix = box @ box @ box
    down, out = torch.empty_like(x), torch.empty_like(x)
    lines, blurred = (image.view(len(x), -1, size) for image in (down, out))
    for start, stop, first in _blocks(size, window):
        rows = matrix[:, None, start - first : stop - first]
        torch.matmul(rows, x[:, :, first : first + window], out=down[:, :, start:stop])
    for start, stop, first in _blocks(size, window):
        rows = matrix[:, start - first : stop - first].mT
        torch.bmm(lines[..., first : first + window], rows, out=blurred[..., start:stop])
    return out


@cache
def _shifts(size: int, device: torch.device) -> Tensor:
    """(5,size*size): the matrices that move a line by -2 to 2 pixels and repeat its edge pixel."""
    source = (torch.arange(size) + torch.arange(-2, 3)[:, None]).clamp_(0, size - 1)
    return F.one_hot(source, size).float().view(5, -1).to(device)


def _blocks(size: int, window: int) -> Iterator[tuple[int, int, int]]:
    """Block [start, stop) of a line and the first pixel of its window."""
    step = size if window == size else _BLOCK
    for start in range(0, size, step):
        yield start, min(start + step, size), min(max(start - _REACH, 0), size - window)
