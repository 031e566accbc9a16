"""Skeletons of files, and files built from them."""

import argparse
import collections
import sys

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet18

from tests.encoders.records import read_tables
from tests.encoders.skeleton import Rebuilder, describe


def test_state_dict_becomes_a_reference_to_a_table():
    tables = read_tables()
    state_dict = {f"module.encoder.{key}": value for key, value in resnet18(num_classes=5).state_dict().items()}
    skeleton = describe({"epoch": 3, "state_dict": state_dict}, tables, "new")
    assert skeleton["v"]["state_dict"]["v"] == {
        "*0": {"R": "resnet18", "prefix": "module.encoder.", "dtype": "float32"},
        "module.encoder.fc.weight": ["T", [5, 512], "float32"],
        "module.encoder.fc.bias": ["T", [5], "float32"],
    }
    rebuilt = Rebuilder(tables).build(skeleton)
    assert rebuilt["epoch"] == 3
    assert {key: value.shape for key, value in rebuilt["state_dict"].items()} == {
        key: value.shape for key, value in state_dict.items()
    }
    assert {key: value.dtype for key, value in rebuilt["state_dict"].items()} == {
        key: value.dtype for key, value in state_dict.items()
    }


def test_unknown_keys_become_a_new_table():
    tables = read_tables()
    state_dict = {f"a.stage.{index}.weight": torch.zeros(2, index) for index in range(80)}
    skeleton = describe(state_dict, tables, "new")
    assert skeleton["v"] == {"*0": {"R": "new", "prefix": "a.stage.", "dtype": "float32"}}
    assert tables["new"]["7.weight"] == [2, 7]


def test_objects_keep_their_class_names(tmp_path):
    class Meter:
        def __init__(self):
            self.total = np.float64(2.5)

    content = {
        "args": argparse.Namespace(arch="resnet18", sizes=[1, 2, 3, 4]),
        "meter": Meter(),
        "model": nn.Sequential(nn.Conv2d(3, 4, 3, padding=2), nn.BatchNorm2d(4)),
        "history": collections.defaultdict(list, loss=[0.5]),
    }
    rebuilder = Rebuilder({})
    rebuilt = rebuilder.build(describe(content, {}, "new"))
    with rebuilder.importable():
        torch.save(rebuilt, tmp_path / "file.pt")
        assert type(rebuilt["args"]) is sys.modules["argparse"].Namespace
    assert argparse.Namespace().__module__ == "argparse"
    assert type(rebuilt["args"]).__module__ == "argparse" and rebuilt["args"].sizes == [1, 2, 3]
    assert rebuilt["meter"].total == 2.5
    assert rebuilt["history"] == {"loss": [0.5]}
    convolution, norm = rebuilt["model"].children()
    assert type(convolution).__qualname__ == "Conv2d" and convolution.padding == (2, 2)
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
