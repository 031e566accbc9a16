"""Lines of Python that build an encoder in other libraries, for users to copy."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from simsiam_eval.encoders.architectures import TRUNK, TrunkVariant


def stem_code(stem: str, variant: TrunkVariant = TRUNK, model: str = "model") -> list[str]:
    """Lines that give a ResNet of torchvision or timm this stem; none if it has it.

    >>> stem_code("imagenet")
    []
    >>> print(*stem_code("cifar"), sep="\\n")
    model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = torch.nn.Identity()
    """
    full, plain = variant.completed(stem), TrunkVariant().completed("imagenet")
    lines = []
    if stem == "cifar" or (full.channels, full.stem_stride, full.stem_padding) != (3, 2, 3):
        lines.append(
            f"{model}.conv1 = torch.nn.Conv2d({full.channels}, 64, kernel_size={3 if stem == 'cifar' else 7}, "
            f"stride={full.stem_stride}, padding={full.stem_padding}, bias=False)"
        )
    if full.stem_pool != plain.stem_pool:
        lines.append(f"{model}.maxpool = torch.nn.Identity()")
    return lines


def timm_code(arch: str, stem: str, path: str | os.PathLike[str], variant: TrunkVariant = TRUNK) -> list[str]:
    """Lines of Python that create `model`, a timm encoder, from the file.

    >>> print(*timm_code("resnet50", "imagenet", "r50.pth"), sep="\\n")
    import timm
    model = timm.create_model("resnet50", num_classes=0, checkpoint_path="r50.pth")
    """
    create, file = f'timm.create_model("{arch}", num_classes=0', json.dumps(os.fspath(path))
    lines = stem_code(stem, variant)
    if not lines:
        return ["import timm", f"model = {create}, checkpoint_path={file})"]
    # timm has no name for other stems.
    return ["import timm, torch", f"model = {create})", *lines, f"timm.models.load_checkpoint(model, {file})"]


def run_code(lines: Sequence[str], **names: Any) -> dict[str, Any]:
    """The names that such lines set: the code that users copy is the code that is compared."""
    exec("\n".join(lines), names)
    return names
