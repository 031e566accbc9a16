"""An ONNX graph, for onnxruntime and whatever else reads the format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.export.comparison import Samples
from simsiam_eval.encoders.export.graph import INPUT, OUTPUT, GraphWriter
from simsiam_eval.encoders.export.writer import missing_packages, quiet
from simsiam_eval.errors import UsageError


class Onnx(GraphWriter):
    """One file with the weights in it. Batch normalization is folded into the convolutions by the exporter."""

    LIBRARY = PACKAGE = "onnxruntime"

    def check(self) -> None:
        super().check()
        if missing := missing_packages("onnx", "onnxscript"):
            raise UsageError(f'--to onnx: {missing}; pip install "simsiam-eval[onnx]".')

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {"opset": str(self.conversion.opset)}

    @cached_property
    def _model(self) -> Any:
        """The ModelProto."""
        with quiet():
            program = torch.onnx.export(
                self.module(),
                (self.example(),),
                dynamo=True,
                verbose=False,
                opset_version=self.conversion.opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(self.dynamic(),),
            )
        assert program is not None
        model = program.model_proto
        opset = next(entry.version for entry in model.opset_import if not entry.domain)
        if opset != self.conversion.opset:
            raise UsageError(f"--opset {self.conversion.opset} cannot be written, only {opset}; use --opset {opset}.")
        _remove_traces(model)
        return model

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        import onnx

        model = self._model
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, dict(metadata))
        path.write_bytes(model.SerializeToString())

    def features(self, path: Path, samples: Samples) -> Tensor:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        outputs = [session.run([OUTPUT], {INPUT: batch.numpy()})[0] for batch in self.inputs(samples)]
        return torch.cat([torch.from_numpy(output) for output in outputs])

    def notes(self) -> list[str]:
        return [
            "Load it with",
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({json.dumps(str(self.conversion.out))})",
            f'{OUTPUT} = session.run(["{OUTPUT}"], {{"{INPUT}": {INPUT}}})[0]',
            f"Opset {self.conversion.opset}. Input and output: {self.input_sentence()}.",
        ]


def _remove_traces(model: Any) -> None:
    """Remove what the exporter stores about the source code, with the paths of its files, in place."""
    graph = model.graph
    del graph.metadata_props[:]
    graph.doc_string = ""
    for entries in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
        for entry in entries:
            del entry.metadata_props[:]
            entry.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
