"""Which layers a pickled module has around and in a trunk, and whether torchvision's ResNets compute what they compute."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignObject
from simsiam_eval.encoders.recognition.search import Trunk
from simsiam_eval.errors import DataError

_NORMALIZATIONS = {"BatchNorm2d", "SyncBatchNorm", "FrozenBatchNorm2d", "BatchNormAct2d"}
# Classes of modules in stages that compute what torchvision's ResNets compute, or nothing in eval mode.
_PLAIN = _NORMALIZATIONS | {
    *("Conv2d", "ReLU", "Sequential", "Identity", "Dropout", "DropPath", "ModuleList", "FloatFunctional", "Module"),
    *("BasicBlock", "Bottleneck", "QuantizableBasicBlock", "QuantizableBottleneck"),
}
# A class of this name of an unknown library, such as a convolution with weight standardization, computes something else.
_TORCH_ONLY = {"Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "AdaptiveAvgPool2d", "Module"}
_RELUS, _POOLS = ("relu", "act1"), ("avgpool", "global_pool")
_ACTIVATION = re.compile(r"relu\d*|act\d+")  # names in blocks
_STEM_POOL = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": False, "return_indices": False}
_LIBRARIES = {
    *("torch", "torchvision", "timm", "transformers", "lightly", "segmentation_models_pytorch", "mmcv", "mmengine"),
    *("mmpretrain", "mmdet", "detectron2"),
}


@dataclass(frozen=True)
class TrunkLayers:
    """The layers of one trunk in a pickled module.

    Attributes:
        module: that contains the trunk.
        trunk: of its weights.
        where: the start of an error message, such as the file's path.
    """

    module: ModuleState
    trunk: Trunk
    where: str

    @property
    def around(self) -> str:
        """What precedes the path of the first convolution: "" or a path that ends with a dot."""
        parent = self.path("conv1.weight").rpartition(".")[0]
        return f"{parent}." if parent else ""

    def path(self, key: str) -> str:
        """Of the module that has one of torchvision's keys."""
        return self.trunk.entries[key].key.rpartition(".")[0]

    def attributes(self, key: str) -> dict[str, Any]:
        """Of the module that has one of torchvision's keys."""
        return attributes(self.module.modules.get(self.path(key)))

    def reject_other_layers(self) -> None:
        """Raises: DataError where a layer is not one of torchvision's ResNets."""
        stages = {entry.key.removeprefix(self.around).partition(".")[0] for entry in self.trunk.entries.values()}
        for path, part in self.module.modules.items():
            first, _, rest = path.removeprefix(self.around).partition(".")
            if not path.startswith(self.around) or first not in stages or (path == "" and self.around == ""):
                continue
            name = _kind(part)
            if name not in _PLAIN:
                raise self.other(path, part, "a layer that torchvision's ResNets do not have")
            if name == "Identity" and _ACTIVATION.fullmatch(rest.rpartition(".")[2]):
                raise self.other(path, part, "where torchvision's ResNets have a ReLU")
        for key in self.trunk.entries:
            layer = self.module.modules.get(self.path(key)) if key.endswith("running_var") else None
            if layer is not None and _kind(layer) not in _NORMALIZATIONS:
                raise self.other(self.path(key), layer, "where torchvision's ResNets have a BatchNorm2d")

    def stem(self) -> tuple[bool, bool | None]:
        """(whether a ReLU, whether torchvision's max pooling follows the first batch normalization).

        None: the module shows no pooling layer, which its code may replace by a function.
        """
        if self.trunk.layer1 is None:
            relus, pools = self._children(*_RELUS), self._children("maxpool")
            has_relu = not relus or any(_kind(part) != "Identity" for part in relus.values())
            for path, part in relus.items():
                if _kind(part) not in ("ReLU", "Identity"):
                    raise self.other(path, part, "where torchvision's ResNets have a ReLU")
        else:
            between = self._children(*map(str, range(2, self.trunk.layer1)))
            has_relu = any(_kind(part) == "ReLU" for part in between.values())
            pools = {path: part for path, part in between.items() if _kind(part) != "ReLU"}
        found = [self._is_stem_pool(path, part) for path, part in pools.items()]
        if sum(found) > 1:
            path, part = list(pools.items())[-1]
            raise self.other(path, part, "a second max pooling, which torchvision's ResNets do not have")
        return has_relu, None if not pools and self.trunk.layer1 is None else any(found)

    def epsilon(self) -> float | None:
        """That all batch normalizations add to variances; None if the module does not show it."""
        found: dict[float, str] = {}
        for key in self.trunk.entries:
            value = self.attributes(key).get("eps") if key.endswith("running_var") else None
            if isinstance(value, float | int):
                found.setdefault(float(value), self.path(key))
        if len(found) > 1:
            (first, at), (second, other) = list(found.items())[:2]
            raise DataError(
                f"{self.where} has batch normalizations with different epsilons ({first:g} in {at}, {second:g} in {other}); "
                "expected the same in all."
            )
        return next(iter(found), None)

    def assumptions(self, arch: str) -> list[str]:
        """What is assumed about the computation around the trunk.

        Raises:
            DataError: the module shows a layer before the trunk, or a pooling of its features other than the average.
        """
        return [*self._of_classes(arch), *self._of_pooling()]

    def other(self, path: str, part: ForeignObject, what: str) -> DataError:
        """The error for a layer that torchvision's ResNets do not have."""
        return DataError(f"{self.where} has a {part.class_name} in {path}, {what}, so its features would differ.")

    def _children(self, *names: str) -> dict[str, ForeignObject]:
        paths = [self.around + name for name in names]
        return {path: self.module.modules[path] for path in paths if path in self.module.modules}

    def _is_stem_pool(self, path: str, part: ForeignObject) -> bool:
        state = attributes(part)
        if _kind(part) == "Identity":
            return False
        if _kind(part) != "MaxPool2d":
            raise self.other(path, part, "where torchvision's ResNets have MaxPool2d(3, 2, 1) or nothing")
        found = {name: _side(state.get(name, value)) for name, value in _STEM_POOL.items()}
        if found["kernel_size"] == found["stride"] == 1 and not found["padding"]:
            return False
        different = {name: value for name, value in found.items() if value != _STEM_POOL[name]}
        if different:
            said = ", ".join(f"{name} {value}" for name, value in different.items())
            expected = ", ".join(f"{name} {_STEM_POOL[name]}" for name in different)
            raise self.other(path, part, f"with {said}, where torchvision's ResNets have {expected}")
        return True

    def _of_classes(self, arch: str) -> list[str]:
        """About unknown classes: of the modules that contain the trunk, from the outermost, and of its blocks."""
        steps = self.around.removesuffix(".").split(".") if self.around else []
        paths = [".".join(steps[:depth]) for depth in range(len(steps) + 1)]
        for path, step in zip(paths, steps, strict=False):
            if path in self.module.modules and _kind(self.module.modules[path]) == "Sequential":
                self._reject_before(path, step)
        unknown = []
        block = self.path("layer1.0.conv1.weight").rpartition(".")[0]
        for path in (*paths, block):
            part = self.module.modules.get(path)
            if part is None:
                continue
            if not _is_of_library(part) or part.class_name.startswith("torch.fx."):
                unknown.append(part.class_name)
        if not unknown:
            return []
        classes = " and ".join(dict.fromkeys(unknown))
        return [
            f"Assumed the forward pass of torchvision's {arch}; the file's class {classes} may compute something else."
        ]

    def _reject_before(self, sequence: str, step: str) -> None:
        for index in range(int(step) if step.isdecimal() else 0):
            path = f"{sequence}.{index}" if sequence else str(index)
            part = self.module.modules.get(path)
            if part is not None and _kind(part) != "Identity":
                raise self.other(path, part, "a layer before the ResNet, which torchvision's ResNets do not have")

    def _of_pooling(self) -> list[str]:
        """About the pooling after the last stage, where that is in the same module as the first convolution."""
        last = self.trunk.entries["layer4.0.conv1.weight"].key
        if not last.startswith(self.around):
            return []
        if self.trunk.layer1 is None:
            pools = self._children(*_POOLS)
        else:
            after = self._children(*map(str, range(self.trunk.layer1 + 4, self.trunk.layer1 + 10)))
            pools = {path: part for path, part in after.items() if "Pool" in _kind(part)}
        for path, part in pools.items():
            if _kind(part) == "Identity":
                continue
            if _kind(part) == "AvgPool2d":
                return [f"Assumed global average pooling in place of {path}, an AvgPool2d of a part of the image."]
            if not _is_average(part):
                raise self.other(path, part, "where torchvision's ResNets have AdaptiveAvgPool2d(1)")
            return []
        return ["Assumed global average pooling after layer4, which the file's module does not have."]


def attributes(part: ForeignObject | None) -> dict[str, Any]:
    """What a pickle says about a module; {} for none."""
    state = part.state if part is not None else None
    return dict(state) if isinstance(state, Mapping) else {}


def _is_average(part: ForeignObject) -> bool:
    state = attributes(part)
    if _kind(part) == "SelectAdaptivePool2d":  # timm
        return state.get("pool_type", "avg") in ("avg", "fast", "fastavg")
    size = state.get("output_size", 1)
    return _kind(part) in ("AdaptiveAvgPool2d", "FastAdaptiveAvgPool") and _side(size) == 1


def _kind(part: ForeignObject) -> str:
    """The name of a module's class; with its library where it is not torch's class of this name."""
    name = part.class_name.rpartition(".")[2]
    return name if name not in _TORCH_ONLY or _is_of_library(part) else part.class_name


def _is_of_library(part: ForeignObject) -> bool:
    return part.class_name.partition(".")[0] in _LIBRARIES


def _side(value: Any) -> Any:
    """A size that is the same in both directions as one number; any other as it is."""
    return value[0] if isinstance(value, list | tuple) and len(set(value)) == 1 else value
