import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from simsiam_eval.errors import DataError
from simsiam_eval.linear.head_file import FORMAT, SavedHead, read_head, write_head
from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.scaling import Scaling


@pytest.fixture(params=["none", "standard"])
def saved(request):
    features = torch.randn(20, 4)
    head = Head(torch.randn(3, 4), torch.randn(3), "layer3", Scaling.fit(request.param, features))
    return SavedHead(head, ["a", "b", "ü"], {"weights_sha256": "12"}, {"resize": 9}, "bf16", {"protocol": "small"})


def test_what_was_written_is_read(saved, tmp_path):
    write_head(tmp_path / "h.safetensors", saved)
    found = read_head(tmp_path / "h.safetensors")
    features = torch.randn(5, 4)
    assert torch.equal(found.head.scores(features), saved.head.scores(features))
    for name in ("class_names", "encoder", "preprocessing", "precision", "trained"):
        assert getattr(found, name) == getattr(saved, name)
    assert found.head.layer == "layer3"


def change(path, **metadata):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        there = file.metadata()
    save_file(load_file(path), path, there | metadata)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"format_version": "2"}, "format version 2"),
        ({"head": "{}"}, "damaged"),
        ({"head": "junk"}, "damaged"),
        ({"format": "other"}, FORMAT),
    ],
)
def test_other_and_newer_files_are_refused(saved, tmp_path, metadata, says):
    path = tmp_path / "h.safetensors"
    write_head(path, saved)
    change(path, **metadata)
    with pytest.raises(DataError, match=says):
        read_head(path)


def test_tensors_that_do_not_fit_or_are_not_finite_are_refused(saved, tmp_path):
    path = tmp_path / "h.safetensors"
    write_head(path, saved)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    told = json.loads(metadata["head"]) | {"class_names": ["a", "b"]}
    change(path, head=json.dumps(told))
    with pytest.raises(DataError, match="do not fit"):
        read_head(path)
    tensors = load_file(path)
    tensors["weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata)
    with pytest.raises(DataError, match="do not fit"):
        read_head(path)
