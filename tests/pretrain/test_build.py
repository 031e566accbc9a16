"""From settings to the parts of a run."""

import pytest
import torch

from pretrain.build import build_model, training_recipe
from pretrain.settings import PretrainSettings
from simsiam_eval.runtime.processes import Processes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "given", "is_last"), [(10, None, False), (32, None, True), (10, True, True), (32, False, False)]
)
def test_memory_format(size, given, is_last):
    settings = PretrainSettings(data="-", out="-", preset="digits", image_size=size, channels_last=given)
    model = build_model(settings, Processes(CPU))
    assert model.encoder.layer4[0].conv2.weight.is_contiguous(memory_format=torch.channels_last) is is_last
    assert training_recipe(settings, 1, CPU).channels_last is is_last
