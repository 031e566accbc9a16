"""A program of torch.export: runs with PyTorch alone, without the code of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.graph import GraphWriter, exported_program, quiet
from simsiam_eval.encoders.export.writer import version_of

METADATA_FILE = "simsiam_eval.json"  # among the extra files of the archive
_PREFIX = "encoder.trunk."


class Pt2(GraphWriter):
    """`torch.export.load(FILE).module()` maps images to features."""

    LIBRARY = "torch.export"

    @cached_property
    def _program(self) -> torch.export.ExportedProgram:
        return exported_program(self)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        extra = {METADATA_FILE: json.dumps(self.metadata(dict(metadata)), indent=1)}
        with quiet():
            torch.export.save(self._program, path, extra_files=extra)

    def weights(self, path: Path) -> dict[str, Tensor] | None:
        state = _loaded(path).state_dict
        return {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}

    def missing(self) -> str | None:
        return None

    def consumer(self) -> str:
        return version_of("torch")

    def features(self, path: Path, samples: Samples) -> Tensor:
        run = _loaded(path).module()
        with torch.inference_mode():
            return torch.cat([run(batch) for batch in self.inputs(samples)])

    def notes(self, path: Path) -> list[str]:
        return [
            "Load it with",
            "import torch",
            f"encoder = torch.export.load({json.dumps(str(path))}).module()",
            f"Its input and output: {self.input_sentence()}.",
        ]


def _loaded(path: Path) -> torch.export.ExportedProgram:
    with quiet():
        return torch.export.load(path)
