"""A program of torch.export: runs with PyTorch alone, without the code of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.graph import GraphWriter, exported_program
from simsiam_eval.encoders.export.writer import quiet

METADATA_FILE = "simsiam_eval.json"  # among the extra files of the archive


class Pt2(GraphWriter):
    """`torch.export.load(FILE).module()` maps images to features."""

    LIBRARY, PACKAGE = "torch.export", "torch"

    @cached_property
    def _program(self) -> torch.export.ExportedProgram:
        return exported_program(self)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        extra = {METADATA_FILE: json.dumps(dict(metadata), indent=1)}
        with quiet():
            torch.export.save(self._program, path, extra_files=extra)

    def features(self, path: Path, samples: Samples) -> Tensor:
        with quiet():
            run = torch.export.load(path).module()
        with torch.inference_mode():
            return torch.cat([run(batch) for batch in self.inputs(samples)])

    def notes(self) -> list[str]:
        return [
            "Load it with",
            "import torch",
            f"encoder = torch.export.load({json.dumps(str(self.conversion.out))}).module()",
            f"Its input and output: {self.input_sentence()}.",
        ]
