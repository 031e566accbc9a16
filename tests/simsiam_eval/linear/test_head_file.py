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


def test_a_written_head_is_read_back(saved, tmp_path):
    write_head(tmp_path / "h.safetensors", saved)
    read = read_head(tmp_path / "h.safetensors")
    features = torch.randn(5, 4)
    assert torch.equal(read.head.scores(features), saved.head.scores(features))
    for name in ("class_names", "encoder", "preprocessing", "precision", "trained"):
        assert getattr(read, name) == getattr(saved, name)
    assert read.head.layer == "layer3"


def change(path, **metadata):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        before = file.metadata()
    save_file(load_file(path), path, before | metadata)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format_version": "2"}, "format version 2"),
        ({"head": "{}"}, "damaged"),
        ({"head": "junk"}, "damaged"),
        ({"format": "other"}, FORMAT),
    ],
)
def test_other_and_newer_files_are_rejected(saved, tmp_path, metadata, message):
    path = tmp_path / "h.safetensors"
    write_head(path, saved)
    change(path, **metadata)
    with pytest.raises(DataError, match=message):
        read_head(path)


def test_tensors_that_do_not_match_or_are_not_finite_are_rejected(saved, tmp_path):
    path = tmp_path / "h.safetensors"
    write_head(path, saved)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    description = json.loads(metadata["head"]) | {"class_names": ["a", "b"]}
    change(path, head=json.dumps(description))
    with pytest.raises(DataError, match="do not match"):
        read_head(path)
    tensors = load_file(path)
    tensors["weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata)
    with pytest.raises(DataError, match="do not match"):
        read_head(path)
