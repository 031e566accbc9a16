"""OpenVINO IR: FILE.xml with the graph and FILE.bin with the weights, in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.graph import INPUT, OUTPUT, GraphWriter, exported_program
from simsiam_eval.encoders.export.writer import missing_packages, quiet
from simsiam_eval.errors import UsageError


class OpenVino(GraphWriter):
    """Read by `openvino.Core().read_model(FILE.xml)`."""

    LIBRARY = PACKAGE = "openvino"

    def check(self) -> None:
        super().check()
        if missing := missing_packages("openvino"):
            raise UsageError(f'--to openvino: {missing}; pip install "simsiam-eval[openvino]".')

    @cached_property
    def _model(self) -> Any:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        # Not openvino.convert_model, which reports each use to its makers.
        frontend = FrontEndManager().load_by_framework("pytorch")
        with quiet():
            # The frontend does not keep the decoder alive.
            decoder = TorchFXPythonDecoder.from_exported_program(exported_program(self))
            model = frontend.convert(frontend.load(decoder))
        model.inputs[0].get_tensor().set_names({INPUT})
        model.outputs[0].get_tensor().set_names({OUTPUT})
        # The frontend takes every dimension as dynamic.
        sides = enumerate(self.example().shape)
        model.reshape({INPUT: [-1 if dimension in self.dynamic() else size for dimension, size in sides]})
        return model

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        import openvino

        for name, value in metadata.items():
            self._model.set_rt_info(value, ["simsiam_eval", name])
        openvino.save_model(self._model, path, compress_to_fp16=False)

    def features(self, path: Path, samples: Samples) -> Tensor:
        import openvino

        # By default it may compute in bfloat16 or float16.
        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs = [compiled(batch.numpy())[OUTPUT] for batch in self.inputs(samples)]
        return torch.cat([torch.from_numpy(output.copy()) for output in outputs])

    def notes(self) -> list[str]:
        out = self.conversion.out
        return [
            f"Wrote {out} and {out.with_suffix('.bin')}. Load them with",
            "import openvino",
            f'encoder = openvino.compile_model({json.dumps(str(out))}, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})',
            f"Input and output: {self.input_sentence()}.",
        ]
