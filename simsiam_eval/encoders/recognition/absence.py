"""What a checkpoint without an encoder has instead, for error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from simsiam_eval.encoders.architectures import ARCHITECTURES
from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.recognition.search import Entry
from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few

_TRANSFORMER_KEY = re.compile(r"(^|\.)(patch_embed|cls_token|class_token|pos_embed)(\.|$)")


def no_weights(content: Mapping[Any, Any]) -> str:
    """What a checkpoint without weights contains instead, and what was expected."""
    later = "expected model weights. Give a checkpoint written after training."
    for name in ("state_dict", "model"):
        entry = content.get(name)
        if isinstance(entry, Mapping):
            if not entry:
                return f"has an empty {name}; {later}"
            inside = first_few(map(str, entry))
            return f"has no weights in {name}, only {inside}; save the model's own state dict there."
    if not content and isinstance(content, ModuleState):
        return (
            "is a module without weights; those of a frozen TorchScript module are constants in its code. Save the model "
            "before torch.jit.freeze: torch.save(model.state_dict(), FILE)."
        )
    if not content:
        return f"is an empty state dict; {later}"
    if "optimizer" in content or {"state", "param_groups"} <= set(content):
        return "has an optimizer's state and no weights; give the checkpoint that has the model's weights."
    return f"has no weights, only {first_few(map(str, content))}; give a file with a model's state dict."


def no_trunk(entries: Sequence[Entry], library_name: str | None) -> str:
    """What a checkpoint without a ResNet contains instead.

    Args:
        library_name: `timm:NAME@FILE` or `hf:FOLDER`, where the file says that it is a network of a library.
    """
    keys = [entry.plain for entry in entries]
    starts = dict.fromkeys(key.split(".")[0] for key in keys)
    kind = "a vision transformer and " * any(_TRANSFORMER_KEY.search(key) for key in keys)
    found = f"has {kind}no ResNet: its keys start with {first_few(starts, 6)}."
    if library_name is not None:
        return f"{found} Give it as {library_name}."
    return (
        f"{found} Give a file with a complete {first_few(ARCHITECTURES, 4)}, under torchvision's names and any prefix; "
        "if it is a network of timm, give it as timm:NAME@FILE, and a folder of transformers as hf:FOLDER."
    )


def quantized_weights(entries: Sequence[Entry], where: str) -> DataError | None:
    """A more precise error than that keys are missing, where one is known."""
    quantized = [
        entry.key
        for entry in entries
        if entry.tensor.is_quantized or entry.key.rpartition(".")[2] in ("zero_point", "_packed_params")
    ]
    if quantized:
        return DataError(
            f"{where} has quantized weights ({first_few(quantized)}); expected floating-point weights. "
            "Give the checkpoint from before quantization."
        )
    return None
