"""What a checkpoint says about the images of its encoder: mean, standard deviation and the order of color channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simsiam_eval.encoders.recognition.family import Family
from simsiam_eval.encoders.recognition.file_settings import Settings, mappings_in, named_values
from simsiam_eval.encoders.recognition.networks import Network
from simsiam_eval.encoders.recognition.search import tensor_entries
from simsiam_eval.encoders.recognition.stated_preprocessing import StatedPreprocessing
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.vocabulary import IMAGENET_MEAN
from simsiam_eval.wording import counted

# Names of mean and standard deviation. Those of detectron2 are in gray levels, whatever their size.
_GRAY_LEVELS = (("PIXEL_MEAN", "PIXEL_STD"), ("pixel_mean", "pixel_std"))
_PAIRS = (("mean", "std"), ("image_mean", "image_std"), *_GRAY_LEVELS)
# OpenMMLab's settings that say whether the channels of a loaded image are reversed.
_FLIPS = ("to_rgb", "bgr_to_rgb", "rgb_to_bgr")
_NEAR = 0.01  # difference of two means, as fractions of 1, that are of the same images


@dataclass(frozen=True)
class StatedImages:
    """The images that an encoder was trained on.

    Attributes:
        normalization: {"mean": [...], "std": [...]} as fractions of 1, for images in RGB; None if nothing says it.
        normalization_from: what says it.
        channel_order: "rgb" or "bgr", in which the encoder takes color channels.
        channel_order_from: what says it; None if nothing does.
        assumptions: sentences.
        preprocessing: of RGB images, with this normalization, as from `Preprocessing.to_dict`; None if nothing says how
            images are resized and cropped.
    """

    normalization: dict[str, list[float]] | None
    normalization_from: str | None
    channel_order: str = "rgb"
    channel_order_from: str | None = None
    assumptions: tuple[str, ...] = ()
    preprocessing: dict[str, Any] | None = None


def stated_images(
    settings: Settings,
    network: Network,
    stated: StatedPreprocessing,
    chosen: str | None = None,
    is_own: bool = False,
    is_caffe: bool = False,
) -> StatedImages:
    """Read what settings say about the images of a network.

    Args:
        stated: the preprocessing that the file states; its mean is in the order of the encoder's channels.
        chosen: order of the channels that the user says.
        is_own: whether the checkpoint is one of ours, whose encoders take RGB.
        is_caffe: whether the network has Caffe's strides. Such encoders often take BGR.

    Raises:
        DataError: the images are neither RGB nor BGR.
        UsageError: `chosen` is given for an encoder that does not take color images.
    """
    if chosen is not None and network.channels != 3:
        raise UsageError(
            f"--channel-order cannot be used with an encoder of images of {counted(network.channels, 'channel')}."
        )
    record = stated.record
    if record is None:
        pair, source = _stated_normalization(settings, network.channels)
    else:
        pair, source = {name: record[name] for name in ("mean", "std")}, stated.source
    order, order_from, assumption = "rgb", None, None
    if chosen is not None:
        order, order_from = chosen, "--channel-order"
    elif network.channels == 3 and not is_own:
        order, order_from, assumption = _channel_order(settings, pair, network.family, is_caffe)
    if pair is not None and order == "bgr":
        pair = {name: values[::-1] for name, values in pair.items()}
    if pair is None:
        pair, source = _known_normalization(settings, network)
    elif record is not None:
        record |= pair
    assumptions = stated.assumptions if assumption is None else (*stated.assumptions, assumption)
    return StatedImages(pair, source, order, order_from, assumptions, record)


def normalization_buffers(content: Mapping[str, Any], network: Network) -> Settings:
    """Mean and standard deviation that a network which normalizes its images itself has beside its weights."""
    found: list[tuple[str, Any]] = []
    container = network.trunk.container
    tensors = {entry.key: entry.tensor for entry in tensor_entries(content) if entry.container == container}
    for key, mean in tensors.items():
        path, dot, name = key.rpartition(".")
        std = tensors.get(f"{path}{dot}{name.removesuffix('mean')}std")
        if name.endswith("mean") and std is not None and mean.numel() == std.numel() == network.channels:
            pair = (name, f"{name.removesuffix('mean')}std")
            names = pair if pair in _PAIRS else ("mean", "std")
            values = ([round(value, 6) for value in part.flatten().tolist()] for part in (mean, std))
            found.append((f"its {key}", dict(zip(names, values, strict=True))))
    return found


def _channel_order(
    settings: Settings, normalization: Mapping[str, list[float]] | None, family: Family, is_caffe: bool
) -> tuple[str, str | None, str | None]:
    """(the order, what says it, an assumption).

    Args:
        normalization: that the settings state, in the order of the encoder's channels.
    """
    stated = stated_orders(settings)
    orders = set(stated.values())
    if len(orders) == 1:
        return orders.pop(), " and ".join(stated), None
    if orders:
        return "rgb", None, f"Assumed RGB images; {' and '.join(stated)} say both RGB and BGR (--channel-order)."
    if len(family.channel_orders) == 1:
        return family.channel_orders[0], f"what {family.name} trains with", None
    if normalization is not None and _is_near(normalization["mean"], IMAGENET_MEAN[::-1]):
        return "bgr", None, "Assumed BGR images, since their mean is ImageNet's in this order (--channel-order)."
    if normalization is not None and _is_near(normalization["mean"], IMAGENET_MEAN):
        return "rgb", None, None
    if "bgr" in family.channel_orders or is_caffe:
        return "rgb", None, (
            "Assumed RGB images, which the file does not say; encoders of Caffe and detectron2 often take BGR "
            "(--channel-order)."
        )  # fmt: skip
    return "rgb", None, None


def stated_orders(settings: Settings) -> dict[str, str]:
    """What says it -> "rgb" or "bgr"."""
    loaded = _loaded_order(settings)
    found: dict[str, str] = {}
    for source, value in settings:
        for mapping in mappings_in(value):
            order = _order_in(mapping, loaded)
            if order is not None and found.setdefault(source, order) != order:
                found[f"another part of {source}"] = order
    return found


def _order_in(mapping: Mapping[str, Any], loaded: str) -> str | None:
    """The order that one mapping of the settings states; None if it states none.

    Args:
        loaded: order in which OpenMMLab loads the images.
    """
    section = mapping.get("INPUT")
    text = section.get("FORMAT") if isinstance(section, Mapping) else mapping.get("input_format")
    if isinstance(text, str):  # detectron2
        if text.upper() in ("RGB", "BGR"):
            return text.lower()
        raise DataError(f"The checkpoint says that its images are in the format {text}; expected RGB or BGR.")
    if mapping.get("do_flip_channel_order") is True:  # transformers
        return "bgr"
    if isinstance(mapping.get("TO_BGR255"), bool):  # maskrcnn-benchmark
        return "bgr" if mapping["TO_BGR255"] else "rgb"
    if mapping.get("__author__") == "torchvision":  # detectron2's conversion
        return "rgb"
    flips = [mapping[name] for name in _FLIPS if isinstance(mapping.get(name), bool)]
    if flips:
        return ("rgb" if loaded == "bgr" else "bgr") if any(flips) else loaded
    return None


def _loaded_order(settings: Settings) -> str:
    """The order in which OpenMMLab loads images: OpenCV's BGR from files, and RGB from CIFAR's arrays."""
    texts = [value for _, value in named_values(settings) if isinstance(value, str)]
    return "rgb" if any(text.startswith("CIFAR") for text in texts) and "LoadImageFromFile" not in texts else "bgr"


def _stated_normalization(settings: Settings, channels: int) -> tuple[dict[str, list[float]] | None, str | None]:
    """The normalization, in the order of the encoder's channels, and what states it; None if there are none or several."""
    found = [
        (pair, source)
        for source, value in settings
        for mapping in mappings_in(value)
        for names in _PAIRS
        if (pair := _pair(mapping, *names, channels)) is not None
    ]
    return found[0] if found and all(pair == found[0][0] for pair, _ in found) else (None, None)


def _pair(mapping: Mapping[str, Any], mean_name: str, std_name: str, channels: int) -> dict[str, list[float]] | None:
    """Mean and standard deviation as fractions of 1, if these are one number for each channel."""
    mean, std = mapping.get(mean_name), mapping.get(std_name)
    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple):
        return None
    if len(mean) != channels or len(std) != channels:
        return None
    if not all(isinstance(value, int | float) for value in (*mean, *std)) or min(std) <= 0:
        return None
    if "TO_BGR255" in mapping:
        in_gray_levels = mapping["TO_BGR255"] is not False
    else:
        of_gray_levels = (mean_name, std_name) in _GRAY_LEVELS or any(name in mapping for name in _FLIPS)
        in_gray_levels = of_gray_levels or max(*mean, *std) > 2
    scale = 255 if in_gray_levels else 1
    return {"mean": [value / scale for value in mean], "std": [value / scale for value in std]}


def _known_normalization(settings: Settings, network: Network) -> tuple[dict[str, list[float]] | None, str | None]:
    """The normalization that the network's toolkit is known to use, of RGB images."""
    known = network.family.normalizations
    data = next((value for name, value in named_values(settings) if name == "dataset" and isinstance(value, str)), "")
    if data in known:
        return dict(known[data]), f"{network.family.name}'s normalization of {data}"
    if network.stem in known:
        return dict(known[network.stem]), f"what {network.family.name} trains with"
    return None, None


def _is_near(values: list[float], expected: tuple[float, ...]) -> bool:
    return len(values) == len(expected) and all(
        abs(value - other) < _NEAR for value, other in zip(values, expected, strict=True)
    )
