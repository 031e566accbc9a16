"""Views of a batch of images on any device, for given parameters (`pretrain.views.parameters` draws them).

What Pillow does to one image in the reference's pipeline is done here to all at once, each with its own parameters and
in its own order; values stay whole gray levels (as float32) wherever Pillow's do, so that the two agree to within a few
gray levels in rare pixels (tests/pretrain/views/test_augment.py states how closely, step by step).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.views.parameters import (
    CONTRAST,
    HUE,
    SATURATION,
    ViewParameters,
    boxes,
    draw,
)
from pretrain.views.steps import blend_, blur, gray, turn_hue, warp
from simsiam_eval.images.crops import Floats, Integers

__all__ = ["ViewParameters", "Views", "boxes", "crop_resident", "draw"]

# Values of a part of a batch. CPU: 1.2 MB, which a core's cache holds, and at 224 px one image, so that no image pays for
# a step that only another takes. Elsewhere: what bounds the memory of the temporaries (some 128 MB each).
_CHUNK = 300_000
_DEVICE_CHUNK = 2**25


@torch.no_grad()
def crop_resident(pixels: Tensor, rows: Tensor, boxes: Integers, size: int, compiled: bool = False) -> Tensor:
    """Crop and resize images that lie on the device; equals `simsiam_eval.images.crops.crop_image` to within one gray level.

    Args:
        pixels: (N,3,H,W) uint8, the whole dataset.
        rows: (B,) int64 on the same device: which images.
        boxes: (B,4) int64: top, left, height, width.
        size: side S of the result.
        compiled: by torch.compile, see `Views`.

    Returns:
        (B,3,S,S) float32 on the same device, whole gray levels in [0,255].
    """
    height, width = pixels.shape[2:]
    edges = _to(pixels.device, boxes)
    out = torch.empty((len(rows), 3, size, size), device=pixels.device)
    with _exact(pixels.device):
        for part in _chunks(len(rows), 3 * height * width, pixels.device):
            if compiled:
                out[part] = _compile(_crop)(pixels, rows[part], edges[part], size)
            else:
                _crop(pixels, rows[part], edges[part], size, out[part])
    return out


def _crop(pixels: Tensor, rows: Tensor, edges: Tensor, size: int, out: Tensor | None = None) -> Tensor:
    height, width = pixels.shape[2:]
    chosen = pixels.index_select(0, rows).float()
    across = _resize_weights(edges[:, 1], edges[:, 3], width, size)
    down = _resize_weights(edges[:, 0], edges[:, 2], height, size)
    narrow = torch.bmm(chosen.view(len(chosen), -1, width), across.mT).view(len(chosen), 3, height, size)
    return torch.matmul(down[:, None], narrow, out=out).round_()


def _resize_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """(B,size,side): how much of each pixel of a line goes into each of `size` pixels made of its part [start, start +
    length). A triangle as wide as two pixels of the coarser of both grids, as in Pillow."""
    scale = length.float()[:, None] / size
    center = (torch.arange(size, device=start.device) + 0.5) * scale
    pixel = torch.arange(side, device=start.device) - start[:, None]
    inside = (pixel >= 0) & (pixel < length[:, None])
    place = torch.where(inside, pixel + 0.5, math.inf)
    distance = (place[:, None] - center[:, :, None]).abs_()
    weights = torch.sub(scale.clamp(min=1)[:, :, None], distance).clamp_(min=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


class Views:
    """Applies drawn parameters to crops.

    Args:
        mean, std: of the red, green and blue channel, as shares of 255.
        compiled: by torch.compile, for a GPU, where a batch's views are hundreds of small kernels otherwise, whose launches
            take longer than their work. A pixel may then fall on the other side of a rounding.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], compiled: bool = False) -> None:
        self.mean, self.std, self._compiled = tuple(mean), tuple(std), compiled

    @torch.no_grad()
    def augment(self, crops: Tensor, parameters: ViewParameters) -> Tensor:
        """Affine > jitter > grayscale > blur > flip > normalize.

        Nothing waits for the device: which image takes which step is known from the parameters.

        Args:
            crops: (B,3,S,S) uint8, or float in [0,255] holding whole gray levels; left as they are.
            parameters: of these B images.

        Returns:
            (B,3,S,S) float32 on the crops' device, (x / 255 - mean) / std.

        Raises:
            ValueError: crops and parameters of different numbers of images.
        """
        if len(crops) != len(parameters):
            raise ValueError(f"{len(crops)} crops but parameters of {len(parameters)} views")
        size = crops.shape[-1]
        out = torch.empty(crops.shape, device=crops.device)
        numbers = _to(crops.device, _numbers(parameters, size, self.mean, self.std))
        with _exact(crops.device):
            for part in _chunks(len(crops), crops.shape[1:].numel(), crops.device):
                self._augment(crops[part], parameters[part], numbers[part], out[part])
        return out

    def _augment(self, crops: Tensor, parameters: ViewParameters, numbers: Tensor, out: Tensor) -> None:
        order = parameters.order
        # Which images take a step, step by step; one transfer moves all lists.
        masks = [parameters.blur > 0] + [parameters.flip, parameters.gray, *(order == HUE).T] * (not self._compiled)
        blurred, *others = _lists(crops.device, masks)
        x = crops.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if parameters.affine is not None:
            x = warp(x, numbers[:, _MATRIX].view(-1, 2, 3))
        # Every step after the affine commutes with the flip.
        every = self._compiled
        x = _compile(_all_take_each_step)(x, numbers) if every else _each_step_by_some(x, order, others, numbers)
        x = _on(x, blurred, numbers, lambda x, of: blur(x, of[:, _TAPS]))
        torch.mul(x, numbers[0, _SCALE].view(3, 1, 1), out=out)
        out.add_(numbers[0, _OFFSET].view(3, 1, 1))


def _each_step_by_some(x: Tensor, order: Integers, lists: Sequence[Tensor], numbers: Tensor) -> Tensor:
    """(n,3,S,S) flipped, jittered, made gray, each step by the images that take it: `lists` of the flip, the gray and the
    hue at each of four places."""
    flipped, grayed, *hued = lists
    blended = [[kind in at for kind in range(HUE)] for at in order.T.tolist()]
    shape = x.shape
    x = _on(x, flipped, numbers, lambda x, _: x.flip(-1)).view(len(x), 3, -1)
    for place, (brightness, contrast, saturation) in enumerate(blended):
        if brightness or contrast or saturation:
            factor, own, mean = _blend(numbers, place)
            blend_(x, factor, own if saturation else None, mean if contrast else None)
        x = _on(x, hued[place], numbers, lambda x, of: turn_hue(x, of[:, _SHIFT]))
    x = _on(x, grayed, numbers, lambda x, _: gray(x)[:, None].repeat(1, 3, 1))
    return x.view(shape)


def _all_take_each_step(x: Tensor, numbers: Tensor) -> Tensor:
    """The same by all images, for a compiler, which needs one shape: a blend's numbers may be such that it changes nothing,
    the other steps are taken back where they are not wanted. Where a place has only brightness in all of a batch the 1e-4
    of `blend_` is new."""
    flipped, grayed, *hued = (numbers[:, _TAKEN, None, None] > 0).unbind(1)
    shape = x.shape
    x = torch.where(flipped[..., None], x.flip(-1), x).view(len(x), 3, -1)
    for place, turned in enumerate(hued):
        blend_(x, *_blend(numbers, place))
        x = torch.where(turned, turn_hue(x, numbers[:, _SHIFT]), x)
    return torch.where(grayed, gray(x)[:, None], x).view(shape)


def _blend(numbers: Tensor, place: int) -> tuple[Tensor, ...]:
    return numbers[:, 3 * place : 3 * place + 3, None, None].unbind(1)


@cache
def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # torch 2.11 recommends TF32 for the products: too few digits for gray levels.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", module="torch")
    return torch.compile(function)


def _lists(device: torch.device, masks: Sequence[NDArray[np.bool_]]) -> Sequence[Tensor]:
    """For each mask (B,) the numbers of the images in it, moved at once."""
    stacked = np.stack(masks)
    return _to(device, np.ascontiguousarray(np.nonzero(stacked)[1])).split(stacked.sum(axis=1).tolist())


def _on(x: Tensor, rows: Tensor, numbers: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`x` with the step taken by some of its images; may overwrite `x`."""
    if len(rows) == len(x):
        return step(x, numbers)
    if len(rows):
        x.index_copy_(0, rows, step(x.index_select(0, rows), numbers.index_select(0, rows)))
    return x


_BLENDS, _SHIFT, _TAPS = slice(0, 12), slice(12, 13), slice(13, 18)
_SCALE, _OFFSET, _MATRIX = slice(18, 21), slice(21, 24), slice(24, 30)
_TAKEN = slice(30, 36)  # 1 for the steps that are taken: flip, gray, and the hue's at each of four places


def _numbers(parameters: ViewParameters, size: int, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(B,36) all that the steps need to know of each image, to be moved at once."""
    order = parameters.order
    numbers = np.zeros((len(order), 36), dtype=np.float32)
    factors = np.concatenate([parameters.factors[:, :HUE], np.ones((len(order), 2))], axis=1)
    factors = np.take_along_axis(factors, order, axis=1)
    blends = [factors, (1 - factors) * (order == SATURATION), (1 - factors) * (order == CONTRAST)]
    numbers[:, _BLENDS] = np.stack(blends, axis=2).reshape(-1, 12)
    numbers[:, _SHIFT] = np.trunc(parameters.factors[:, HUE:] * 255) % 256
    numbers[:, _TAPS] = _box_taps(parameters.blur)
    numbers[:, _SCALE] = 1 / (255 * np.asarray(std))
    numbers[:, _OFFSET] = -np.asarray(mean) / std
    numbers[:, _TAKEN] = np.stack([parameters.flip, parameters.gray, *(order == HUE).T], axis=1)
    if parameters.affine is not None:
        numbers[:, _MATRIX] = _inverse_affine(parameters.affine, size).reshape(-1, 6)
    return numbers


def _box_taps(radius: Floats) -> Floats:
    """(B,5) weights of the box that, applied three times, is Pillow's Gaussian (the extended box of Gwosdek et al. 2011)."""
    variance = (radius**2 / 3)[:, None]  # of one box
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    taps: Floats = np.clip(whole + part + 1 - np.abs(np.arange(-2, 3)), 0, 1) / (2 * (whole + part) + 1)
    return taps


def _inverse_affine(affine: Floats, size: int) -> Floats:
    """(B,5) -> (B,2,3) from the view's pixels to the image's, turned, sheared and scaled about the center, then shifted."""
    turn, shear = np.radians(affine[:, 0]), np.tan(np.radians(affine[:, 4]))
    sine, cosine = np.sin(turn), np.cos(turn)
    linear = np.array([[cosine - sine * shear, cosine * shear + sine], [-sine, cosine]]) / affine[:, 3]
    linear = linear.transpose(2, 0, 1)
    shifted = size * (affine[:, 1:3] + 0.5)
    return np.concatenate([linear, size / 2 - linear @ shifted[:, :, None]], axis=2)


def _chunks(count: int, values: int, device: torch.device) -> Iterator[slice]:
    """Parts of a batch of `count` images of `values` values, of one size but for the last: each size is compiled."""
    most = max(1, (_CHUNK * torch.get_num_threads() if device.type == "cpu" else _DEVICE_CHUNK) // values)
    step = max(1, -(-count // max(1, -(-count // most))))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _exact(device: torch.device) -> torch.autocast:
    """Gray levels need more than the 8 bits that an autocast around us would leave to products."""
    return torch.autocast(device.type, enabled=False)


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda" and array.size:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
