"""The preprocessing of transformers: of `preprocessor_config.json`, which its image processors write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.checkpoint_files.folder import IMAGE_PROCESSORS
from simsiam_eval.encoders.recognition.stated_preprocessing import StatedPreprocessing, known_interpolation
from simsiam_eval.errors import DataError
from simsiam_eval.images.preprocess import Preprocessing

_ENDING = re.compile(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$")
# Image processors whose `size`, where it is one number, is the short side; that of others is a square.
_SHORT_SIDE = {"Bit", "CLIP", "ConvNext", "Levit", "MobileNetV1", "MobileNetV2", "PoolFormer"}
# Those that resize, crop and normalize as `_sides` and `_normalization` read it, and do nothing else.
_KNOWN = _SHORT_SIDE | {
    *("", "Beit", "Blip", "DINOv3ViT", "DPT", "DeiT", "EfficientNet", "Flava", "OwlViT", "Pvt", "Segformer", "Siglip"),
    *("Tipsv2", "ViT"),
}
_OTHER_STEPS = ("do_pad", "keep_aspect_ratio")
_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_SQUASHED = 384  # pixels, from which on ConvNext resizes the whole image to a square
_LEVIT = 256 / 224  # of the short side after the resize to the crop


def transformers_images(file: CheckpointFile, channels: int) -> StatedPreprocessing:
    """The preprocessing that an image processor of transformers states.

    Args:
        channels: of the images.

    Raises:
        DataError: the file of the image processor is damaged.
    """
    name = next((name for name in IMAGE_PROCESSORS if name in file.configs), None)
    if name is None:
        return StatedPreprocessing()
    content = file.configs[name]
    values = content.get("image_processor", content)  # in processor_config.json
    try:
        gap = _gap(values)
        if gap is not None:
            return StatedPreprocessing(assumptions=(f"{name} {gap}, so it is not used.",))
        preprocessing, assumptions = _preprocessing(values, channels)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise DataError(
            f"{name} of {file.path} cannot be used ({type(error).__name__}: {error}); write it again with transformers."
        ) from error
    return StatedPreprocessing(preprocessing, name, assumptions)


def _gap(values: Mapping[str, Any]) -> str | None:
    """What a file lacks for a preprocessing to be known; None for nothing."""
    required = {"size", "image_mean", "image_std"} if values.get("do_normalize", True) else {"size"}
    if missing := sorted(required - values.keys()):
        # These are then those of the image processor's class, which change with the version of transformers.
        return (
            f"does not say {' and '.join(missing)} (AutoImageProcessor.from_pretrained(FOLDER).save_pretrained(FOLDER) "
            "completes it)"
        )
    size = values["size"]
    if isinstance(size, Mapping) and "shortest_edge" not in size and not {"height", "width"} <= size.keys():
        return f"states the size {dict(size)}, expected shortest_edge, or height and width"
    return None


def _preprocessing(values: Mapping[str, Any], channels: int) -> tuple[Preprocessing, tuple[str, ...]]:
    kind = _ENDING.sub("", values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    resize, crop, squash, assumptions = _sides(values, kind)
    interpolation, of_interpolation = known_interpolation(_INTERPOLATIONS[values.get("resample", 2)])
    others = [step for step in _OTHER_STEPS if values.get(step)]
    if kind not in _KNOWN or others:
        assumptions += (
            f"Images are only resized, cropped and normalized; the image processor {kind} of transformers may do more"
            f"{f' ({others[0]})' if others else ''}.",
        )
    mean, std = _normalization(values)
    return (
        Preprocessing(resize, crop, mean, std, squash=squash, interpolation=interpolation, channels=channels),
        (*assumptions, *of_interpolation),
    )


def _sides(values: Mapping[str, Any], kind: str) -> tuple[int, int, bool, tuple[str, ...]]:
    """(resize, crop, squash, assumptions), in pixels."""
    size, assumptions = values["size"], tuple[str, ...]()
    if not values.get("do_resize", True):
        assumptions += ("Images are resized; the image processor of transformers only crops them.",)
    if not isinstance(size, Mapping):
        is_short = kind in _SHORT_SIDE or (not kind and values.get("do_center_crop"))
        size = {"shortest_edge": size} if is_short else {"height": size, "width": size}
    does_crop = values.get("do_center_crop", kind in ("Levit", "PoolFormer"))
    crop = values.get("crop_size", size) if does_crop else size
    height, side = _height_and_width(crop)
    if height != side:
        assumptions += (f"Images are cropped to {side} x {side} pixels; transformers' are {height} x {side}.",)
    if "shortest_edge" not in size:
        resize = _height_and_width(size)[1]
        if resize != side:
            assumptions += (
                f"Images are resized to a short side of {resize} pixels; transformers resizes them to a square.",
            )
        return max(resize, side), side, resize == side, assumptions
    short = int(size["shortest_edge"])
    if kind == "ConvNext" and short >= _SQUASHED:
        return short, short, True, assumptions
    if kind in ("ConvNext", "PoolFormer"):
        short = int(short / (values.get("crop_pct") or 0.875))
    elif kind == "Levit":
        short = int(short * _LEVIT)
    elif not does_crop:
        assumptions += ("Images are cropped at the center; transformers does not crop them.",)
    if short < side:
        assumptions += (f"Images are resized to {side} pixels; transformers pads those of {short} pixels.",)
    return max(short, side), side, False, assumptions


def _height_and_width(size: Any) -> tuple[int, int]:
    if not isinstance(size, Mapping):
        return int(size), int(size)
    short = size.get("shortest_edge")
    return (int(short), int(short)) if short is not None else (int(size["height"]), int(size["width"]))


def _normalization(values: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of images from 0 to 1.

    Image processors multiply gray levels by `rescale_factor`, and EfficientNet's may subtract 1 and divide twice.
    """
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if values.get("do_normalize", True):
        mean, std = tuple(map(float, values["image_mean"])), tuple(map(float, values["image_std"]))
        if values.get("include_top"):
            std = tuple(value * value for value in std)
    scale = 255 * float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 255.0
    offset = 1.0 if values.get("rescale_offset") else 0.0
    if (scale, offset) == (1.0, 0.0):
        return mean, std
    return tuple((value + offset) / scale for value in mean), tuple(value / scale for value in std)
