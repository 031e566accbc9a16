"""Tensors, arrays and plain values of pickles; other objects as stubs; damaged files."""

import argparse
import collections
import datetime
import functools
import io
import pathlib
import pickle
import random
import types
import zipfile

import numpy as np
import pytest
import torch

from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import open_checkpoint, read_checkpoint
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignClass, ForeignObject
from simsiam_eval.errors import DataError


def saved_tensor(folder, *, count, offset=0, size=(2,), stride=(1,)):
    """A torch zip with one storage of 4 floats whose pickle claims something else."""
    tensor = torch.arange(4.0)
    buffer = io.BytesIO()
    torch.save({"a": tensor}, buffer)

    class Storage:
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(value, Storage) else None

    class Claim:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, collections.OrderedDict())

    pickled = io.BytesIO()
    Pickler(pickled, 2).dump({"a": Claim()})
    path = folder / "claim.pth"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled.getvalue() if name.endswith("data.pkl") else old.read(name))
    return path


class TestTensors:
    def test_a_true_claim(self, tmp_path):
        path = saved_tensor(tmp_path, count=4, offset=1, size=(1, 2), stride=(7, 2))
        assert read_checkpoint(path)["a"].tolist() == [[1.0, 3.0]]

    @pytest.mark.parametrize(
        "claim",
        [
            {"count": 10**13},
            {"count": -1},
            {"count": 4, "size": (5,)},
            {"count": 4, "offset": 3},
            {"count": 4, "offset": -1},
            {"count": 4, "offset": 2**61},
            {"count": 4, "stride": (4,)},
            {"count": 4, "stride": (-1,)},
            {"count": 4, "size": (2, 2)},
            {"count": 4, "size": (2**40,), "stride": (0,)},
            {"count": 4, "size": (2.0,)},
            {"count": 4, "size": (1,) * 100, "stride": (1,) * 100},
        ],
    )
    def test_a_false_claim(self, tmp_path, claim):
        with pytest.raises(DataError, match="truncated or damaged"):
            read_checkpoint(saved_tensor(tmp_path, **claim))


Point = collections.namedtuple("Point", "x y")


class Meter:
    def __init__(self):
        self.average, self.history = 0.5, [1, 2]


class Config(dict):
    pass


CONTENT = {
    "weight": torch.arange(6.0).reshape(2, 3).t(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "half": torch.arange(10, dtype=torch.bfloat16)[3:8:2],
    "scalar": torch.tensor(5),
    "empty": torch.zeros(0, 3),
    "meta": torch.zeros(3, device="meta"),
    "sparse": torch.eye(2).to_sparse(),
    "size": torch.Size([1, 2]),
    "dtype": torch.float16,
    "device": torch.device("cuda:1"),
    "array": np.arange(6.0).reshape(2, 3).T,
    "big_endian": np.arange(3, dtype=">f4"),
    "float64": np.float64(3.5),
    "int64": np.int64(4),
    "bool": np.bool_(True),
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], 3),
    "set": {1, 2},
    "frozen": frozenset([1]),
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"x"),
    "complex": 1 + 2j,
    "range": range(3),
    "slice": slice(1, 2),
    "big": 2**100,
    "negative": -5,
    "none": None,
    "time": datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC),
    "delta": datetime.timedelta(3, 4),
    "path": pathlib.PurePosixPath("/a/b"),
}
FOREIGN = {
    "namespace": argparse.Namespace(arch="resnet18"),
    "simple": types.SimpleNamespace(arch="resnet50"),
    "meter": Meter(),
    "config": Config(arch="resnet34"),
    "point": Point(1, 2),
    "partial": functools.partial(torch.optim.SGD, lr=3),
    "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1),
    "words": np.array(["a", "bc"]),
    "objects": np.array([{1: 2}, "x"], dtype=object),
    "generator": np.random.default_rng(0),
    "classes": {Meter: 3},
    "random": random.getstate(),
    "numpy_random": np.random.get_state(),
}


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_values(tmp_path, how, protocol):
    # A sparse tensor's parts come after it in the legacy format; it stays an inert stub there.
    left_out = [*(["generator", "dtype"] if protocol < 2 else []), *(["sparse"] if how == "legacy" else [])]
    content = {key: value for key, value in (CONTENT | FOREIGN).items() if key not in left_out}
    path = tmp_path / "a.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol))
    elif how == "zip" or protocol > 1:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=how == "zip")
    else:
        pytest.skip("torch.save writes its magic number with protocol 2 or higher")
    file = open_checkpoint(path)
    assert file.format == {"zip": "torch", "legacy": "torch (before 1.6)", "pickle": "pickle"}[how]
    read = file.content
    assert list(read) == list(content)
    plain = {"default": {"a": [1]}, "counter": {"a": 2, "b": 1}, "deque": [1, 2]}
    for key, value in CONTENT.items():
        if key not in content:
            continue
        value = (
            torch.from_numpy(value.astype(value.dtype.newbyteorder("="))) if isinstance(value, np.ndarray) else value
        )
        if key == "meta":
            assert read[key].is_meta and read[key].shape == (3,)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(read[key].to_dense(), value.detach().to_dense())
            assert read[key].dtype == value.dtype and read[key].layout == value.layout
        else:
            assert read[key] == plain.get(key, value)
            assert type(read[key]) in (type(plain.get(key, value)), float, int, bool)
    assert read["weight"].stride() == (1, 3)
    assert attributes_of(read["namespace"]) == {"arch": "resnet18"}
    assert attributes_of(read["simple"]) == {"arch": "resnet50"}
    assert attributes_of(read["config"]) == {"arch": "resnet34"}
    assert attributes_of(read["meter"]) == {"average": 0.5, "history": [1, 2]}
    assert read["meter"].class_name.endswith(".Meter")
    assert [type(key) for key in read["classes"]] == [ForeignClass]
    assert torch.equal(read["numpy_random"][1], torch.from_numpy(FOREIGN["numpy_random"][1].astype(np.uint32)))
    assert isinstance(read["words"], ForeignObject)


def test_omegaconf():
    def stub(kind, **state):
        return ForeignObject(f"omegaconf.{kind}", state=state)

    node = stub("nodes.AnyNode", _val="resnet18", _metadata=None)
    inner = stub("dictconfig.DictConfig", _content={"name": node})
    config = stub(
        "dictconfig.DictConfig", _content={"backbone": inner, "sizes": stub("listconfig.ListConfig", _content=[node])}
    )
    assert attributes_of(config)["sizes"] == ["resnet18"]
    assert attributes_of(attributes_of(config)["backbone"]) == {"name": "resnet18"}


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "safetensors", "npz"])
def test_damaged_bytes_are_data_errors_or_read(tmp_path, how):
    """Flipped, cut, doubled and overwritten bytes: a result or a DataError, at once and in little memory."""
    import safetensors.torch

    content = {
        "w": torch.arange(40.0),
        "o": FOREIGN["meter"],
        "n": np.arange(4),
        "s": np.float32(3),
        "d": {"x": (1, "a")},
    }
    path = tmp_path / "a.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, 4))
    elif how == "safetensors":
        safetensors.torch.save_file({"w": content["w"]}, path)
    elif how == "npz":
        with open(path, "wb") as file:
            np.savez(file, w=np.arange(40.0))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    whole = path.read_bytes()
    chance = random.Random(how)
    results = set()
    for _ in range(120):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3, 20))):
            place = chance.randrange(len(damaged))
            kind = chance.randrange(4)
            if kind == 0:
                damaged[place] ^= 1 << chance.randrange(8)
            elif kind == 1:
                damaged[place : place + 8] = chance.choice((b"\xff" * 8, bytes(8), b"\xff" * 4, b"\x7f"))
            elif kind == 2 and place > 100:
                del damaged[place:]
            else:
                damaged[place:place] = damaged[place : place + 16]
        path.write_bytes(damaged)
        try:
            results.add(type(open_checkpoint(path).content))
        except DataError as error:
            results.add(DataError)
            assert "\n" not in str(error)
    assert DataError in results
