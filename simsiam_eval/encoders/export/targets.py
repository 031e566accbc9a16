"""The formats that an encoder can be written in. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simsiam_eval.errors import UsageError

PREPROCESSING_IN = ("outside", "normalize", "inside")


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        summary: what is written, for `--help`.
        writer: `module:class` of its `Writer`.
        endings: permitted ends of the output's name; none: it is a folder.
        endings_beside: role in the record -> ending of a file that is written next to the output.
        options: settings of `convert` that it has a use for.
    """

    summary: str
    writer: str
    endings: tuple[str, ...] = ()
    endings_beside: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> bool:
        """Whether the output is a folder."""
        return not self.endings

    def check(self, name: str, out: Path) -> None:
        """Reject an output that is not of this target, whose name in TARGETS is `name`. Raises UsageError."""
        if self.folder and out.exists():
            raise UsageError(f"--out {out} already exists; choose a new folder.")
        if not self.folder and not out.name.endswith(self.endings):
            raise UsageError(f"--out {out} must end in {' or '.join(self.endings)} with --to {name}.")
        for path in self.beside(out).values():
            if path.exists() and not out.exists():
                raise UsageError(f"--out {out} would overwrite {path}, which already exists; choose another name.")

    def beside(self, out: Path) -> dict[str, Path]:
        """Role in the record -> file that is written next to `out`."""
        return {role: out.with_suffix(ending) for role, ending in self.endings_beside.items()}


# torch.load needs no ending; the others are read by programs that choose the format by it.
_TORCH = (".pth", ".pt", ".pth.tar", ".tar", ".bin", ".ckpt")
_HERE = "simsiam_eval.encoders.export"
TARGETS: dict[str, Target] = {
    "reference": Target("facebookresearch/simsiam's keys", f"{_HERE}.state_dicts:Reference", _TORCH),
    "torchvision": Target("a state dict without fc", f"{_HERE}.state_dicts:Torchvision", _TORCH),
    "safetensors": Target("the same as a safetensors file", f"{_HERE}.state_dicts:Safetensors", (".safetensors",)),
    "timm": Target(
        "for timm.create_model(..., checkpoint_path=FILE)", f"{_HERE}.state_dicts:Timm", (*_TORCH, ".safetensors")
    ),
    "timm-folder": Target(
        'a folder for timm.create_model("local-dir:FOLDER") and the Hugging Face Hub', f"{_HERE}.timm_folder:TimmFolder"
    ),
    "transformers": Target("a folder for AutoModel.from_pretrained", f"{_HERE}.transformers_folder:TransformersFolder"),
    "lightly": Target("the keys of lightly's SimSiam", f"{_HERE}.lightly_file:Lightly", _TORCH),
    "onnx": Target(
        "an ONNX graph (extra `onnx`)",
        f"{_HERE}.onnx_file:Onnx",
        (".onnx",),
        options=("preprocessing", "opset"),
    ),
    "torch-export": Target("a program of torch.export", f"{_HERE}.pt2_file:Pt2", (".pt2",), options=("preprocessing",)),
    "openvino": Target(
        "OpenVINO IR, FILE.xml and FILE.bin (extra `openvino`)",
        f"{_HERE}.openvino_file:OpenVino",
        (".xml",),
        {"bin": ".bin"},
        ("preprocessing",),
    ),
}
