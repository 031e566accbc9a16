"""Views of a batch of images on any device, for given parameters (`pretrain.views.parameters` draws them).

The reference transforms single images with Pillow. Here a whole batch is transformed at once, each image with its own
parameters and order of steps. Values are rounded to whole gray levels (as float32) wherever Pillow does so, so that the two
differ only by a few gray levels in rare pixels (tests/pretrain/views/test_augment.py has the bounds, step by step).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.views.parameters import HUE, PerImage, ViewParameters, pack, unpack
from pretrain.views.steps import blend_, blur, gray, shift_hue, warp
from simsiam_eval.images.crops import Integers

# Values per chunk of a batch. CPU: 1.2 MB, which fits a core's cache, and at 224 px one image, so that no image pays for a
# step that only another takes. Elsewhere: bounds the memory of the temporaries (some 128 MB each).
_CHUNK = 300_000
_DEVICE_CHUNK = 2**25


class Select(Protocol):
    """Applies a step to the images that take it; `columns` (n,...) are the step's parameters, by image."""

    def __call__(self, x: Tensor, name: str, step: Callable[..., Tensor], *columns: Tensor) -> Tensor: ...


_HUE_STEPS = ("hue 1", "hue 2", "hue 3", "hue 4")  # by jitter position
_EVERY_BLEND = ((True, True, True),) * 4


@torch.no_grad()
def crop_resident(pixels: Tensor, rows: Tensor, boxes: Integers, size: int, compiled: bool = False) -> Tensor:
    """Crop and resize images on their device; equals `simsiam_eval.images.crops.crop_image` to within one gray level.

    Args:
        pixels: (N,3,H,W) uint8, the whole dataset.
        rows: (B,) int64 on the same device: indices of the images.
        boxes: (B,4) int64: top, left, height, width.
        size: side S of the result.
        compiled: use torch.compile, see `Views`.

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
    images = pixels.index_select(0, rows).float()
    across = _resize_weights(edges[:, 1], edges[:, 3], width, size)
    down = _resize_weights(edges[:, 0], edges[:, 2], height, size)
    narrow = torch.bmm(images.view(len(images), -1, width), across.mT).view(len(images), 3, height, size)
    return torch.matmul(down[:, None], narrow, out=out).round_()


def _resize_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """(B,size,side): weight of each of a line's `side` pixels in each of the `size` pixels that its part [start, start +
    length) is resized to. A triangle as wide as two pixels of the coarser grid, as in Pillow."""
    scale = length.float()[:, None] / size
    center = (torch.arange(size, device=start.device) + 0.5) * scale
    pixel = torch.arange(side, device=start.device) - start[:, None]
    inside = (pixel >= 0) & (pixel < length[:, None])
    position = torch.where(inside, pixel + 0.5, math.inf)
    distance = (position[:, None] - center[:, :, None]).abs_()
    weights = torch.sub(scale.clamp(min=1)[:, :, None], distance).clamp_(min=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


class Views:
    """Applies drawn parameters to crops.

    Args:
        mean, std: of the red, green and blue channel, for values in [0,1].
        compiled: use torch.compile, for a GPU: there a batch's views are otherwise hundreds of small kernels, whose
            launches take longer than their work. Rounding may then differ in single pixels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], compiled: bool = False) -> None:
        self.mean, self.std, self._compiled = tuple(mean), tuple(std), compiled

    @torch.no_grad()
    def augment(self, crops: Tensor, parameters: ViewParameters) -> Tensor:
        """Affine > jitter > grayscale > blur > flip > normalize.

        Nothing waits for the device: which image takes which step is known from the parameters.

        Args:
            crops: (B,3,S,S) uint8, or float in [0,255] holding whole gray levels; not changed.
            parameters: of these B images.

        Returns:
            (B,3,S,S) float32 on the crops' device, (x / 255 - mean) / std.

        Raises:
            ValueError: crops and parameters of different numbers of images.
        """
        if len(crops) != len(parameters):
            raise ValueError(f"got {len(crops)} crops but parameters for {len(parameters)} views")
        size = crops.shape[-1]
        out = torch.empty(crops.shape, device=crops.device)
        packed = _to(crops.device, pack(parameters, size))
        with _exact(crops.device):
            for part in _chunks(len(crops), crops.shape[1:].numel(), crops.device):
                self._augment(crops[part], parameters[part], packed[part], out[part])
        return out

    def _augment(self, crops: Tensor, parameters: ViewParameters, packed: Tensor, out: Tensor) -> None:
        is_hue = parameters.order == HUE
        masks = {"blur": parameters.blur > 0}
        if not self._compiled:
            masks |= {"flip": parameters.flip, "gray": parameters.gray, **dict(zip(_HUE_STEPS, is_hue.T, strict=True))}
        select, image = _select_rows(_rows(crops.device, masks)), unpack(packed)
        x = crops.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if parameters.affine is not None:
            x = warp(x, image.affine.view(-1, 2, 3))
        if self._compiled:
            x = _compile(_compiled_color_steps)(x, packed)
        else:
            blends = [[kind in kinds for kind in range(HUE)] for kinds in parameters.order.T.tolist()]
            x = color_steps(x, image, select, blends)
        x = select(x, "blur", blur, image.blur_taps)
        scale, offset = _normalization(self.mean, self.std, crops.device)
        torch.mul(x, scale, out=out)
        out.add_(offset)


def color_steps(x: Tensor, image: PerImage, select: Select, blends: Sequence[Sequence[bool]]) -> Tensor:
    """Flip, color jitter and grayscale of (n,3,S,S); may overwrite `x`.

    Flips come first: every step after the affine commutes with them.

    Args:
        select: applies a step to the images that take it.
        blends: by jitter position, whether any image takes brightness, contrast and saturation there.
    """
    shape = x.shape
    x = select(x, "flip", lambda x: x.flip(-1)).view(len(x), 3, -1)
    for position, (brightness, contrast, saturation) in enumerate(blends):
        if brightness or contrast or saturation:
            factor, mean_gray, own_gray = (
                column[:, position, None, None]
                for column in (image.blend_self, image.blend_mean_gray, image.blend_own_gray)
            )
            blend_(x, factor, own_gray if saturation else None, mean_gray if contrast else None)
        x = select(x, _HUE_STEPS[position], shift_hue, image.hue_shift)
    x = select(x, "gray", lambda x: gray(x)[:, None].repeat(1, 3, 1))
    return x.view(shape)


def _select_rows(rows: Mapping[str, Tensor]) -> Select:
    """Computes only the images that take a step: their indices by the step's name."""

    def select(x: Tensor, name: str, step: Callable[..., Tensor], *columns: Tensor) -> Tensor:
        selected = rows[name]
        if len(selected) == len(x):
            return step(x, *columns)
        if len(selected):
            results = step(*(tensor.index_select(0, selected) for tensor in (x, *columns)))
            x.index_copy_(0, selected, results)
        return x

    return select


def _compiled_color_steps(x: Tensor, packed: Tensor) -> Tensor:
    """For a compiler, which needs one shape: every step computes every image, and its result is used where it is taken.

    Where all of a batch takes only brightness at a jitter position, the 1e-4 of `blend_` is added too.
    """
    image = unpack(packed)
    takes = {"flip": image.takes_flip, "gray": image.takes_gray}
    takes |= dict(zip(_HUE_STEPS, image.takes_hue.split(1, dim=1), strict=True))

    def select(x: Tensor, name: str, step: Callable[..., Tensor], *columns: Tensor) -> Tensor:
        is_taken = takes[name].view(-1, *[1] * (x.dim() - 1)) > 0
        return torch.where(is_taken, step(x, *columns), x)

    return color_steps(x, image, select, _EVERY_BLEND)


@cache
def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # torch 2.11 recommends TF32 for the products: too imprecise for gray levels.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", module="torch")
    return torch.compile(function)


def _rows(device: torch.device, masks: Mapping[str, NDArray[np.bool_]]) -> dict[str, Tensor]:
    """For each mask (B,) the indices where it is true, moved to the device at once."""
    stacked = np.stack(list(masks.values()))
    indices = _to(device, np.ascontiguousarray(np.nonzero(stacked)[1]))
    return dict(zip(masks, indices.split(stacked.sum(axis=1).tolist()), strict=True))


@cache
def _normalization(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(3,1,1) scale and offset, from gray levels to (x / 255 - mean) / std."""
    both = np.array([1 / (255 * np.asarray(std)), -np.asarray(mean) / std], dtype=np.float32)
    scale, offset = _to(device, both)[:, :, None, None]
    return scale, offset


def _chunks(count: int, values: int, device: torch.device) -> Iterator[slice]:
    """A batch of `count` images of `values` values in chunks of one size, except the last: every size is compiled."""
    max_images = max(1, (_CHUNK * torch.get_num_threads() if device.type == "cpu" else _DEVICE_CHUNK) // values)
    images = max(1, -(-count // max(1, -(-count // max_images))))
    for start in range(0, count, images):
        yield slice(start, min(start + images, count))


def _exact(device: torch.device) -> torch.autocast:
    """No autocast: its products have 8 bits, too few for gray levels."""
    return torch.autocast(device.type, enabled=False)


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda" and array.size:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
