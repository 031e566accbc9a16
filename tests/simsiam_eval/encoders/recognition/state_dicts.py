"""State dicts whose tensors take no memory, for tests of what keys and shapes tell."""

import itertools

import torch

from simsiam_eval.encoders.recognition.architecture import trunk_shapes

R18 = dict(trunk_shapes("resnet18", "imagenet"))
_VALUES = itertools.count()


def weights(shapes, prefix=""):
    """Key -> tensor of each shape; each call has a value of its own, so that two trunks are not copies of one."""
    value = torch.tensor(float(next(_VALUES)))
    return {prefix + key: value.expand(shape) for key, shape in shapes.items()}
