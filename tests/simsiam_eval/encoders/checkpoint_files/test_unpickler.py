"""Nothing that a pickle names is imported, called or changed, in any protocol, format or nesting."""

import argparse
import collections
import datetime
import functools
import io
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import open_checkpoint, read_checkpoint
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignClass, ForeignObject, Unpickler, UnpicklingError
from simsiam_eval.errors import DataError

CANARY = "executed"
# Callables that would do harm, and the argument they would do it with.
CALLS = [
    ("os", "system", f"touch {CANARY}"),
    ("posix", "system", f"touch {CANARY}"),
    ("os", "mkdir", CANARY),
    ("subprocess", "getoutput", f"touch {CANARY}"),
    ("subprocess", "Popen", f"mkdir {CANARY}"),
    ("builtins", "eval", f"open('{CANARY}', 'w')"),
    ("builtins", "exec", f"open('{CANARY}', 'w')"),
    ("builtins", "__import__", "this"),
    ("__builtin__", "eval", f"open('{CANARY}', 'w')"),
    ("importlib", "import_module", "this"),
    ("runpy", "run_module", "this"),
    ("timeit", "timeit", f"open('{CANARY}', 'w')"),
    ("pathlib", "Path.touch", CANARY),
    ("shutil", "rmtree", "."),
    ("torch.hub", "load", "this/that"),
    ("torch", "load", "file"),
    ("torch.serialization", "load", "file"),
    ("torch.utils.collect_env", "run", f"touch {CANARY}"),
    ("numpy", "load", "file"),
    ("numpy.testing._private.utils", "runstring", f"open('{CANARY}', 'w')"),
    ("numpy.f2py", "compile", "x"),
    ("codecs", "open", CANARY),
    ("_io", "FileIO", CANARY),
    ("ctypes", "CDLL", "libc.so.6"),
    ("operator", "attrgetter", "system"),
]


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def stack_global(module, name):
    return text(module) + text(name) + b"\x93"


def ways_to_call(module, name, argument):
    """Pickles that would call a name, by each opcode that can."""
    named, given = f"c{module}\n{name}\n".encode(), text(argument)
    return {
        "reduce": b"\x80\x02" + named + given + b"\x85R.",
        "stack_global": b"\x80\x04" + stack_global(module, name) + given + b"\x85R.",
        "newobj": b"\x80\x02" + named + given + b"\x85\x81.",
        "newobj_ex": b"\x80\x04" + named + given + b"\x85}\x92.",
        "inst": b"\x80\x02(" + given + f"i{module}\n{name}\n.".encode(),
        "obj": b"\x80\x02(" + named + given + b"o.",
        "newobj_by_copyreg": b"\x80\x02ccopyreg\n__newobj__\n" + named + given + b"\x86R.",
        "partial": b"\x80\x02cfunctools\npartial\n" + named + given + b"\x86R)R.",
        "map": b"\x80\x02cbuiltins\nlist\ncbuiltins\nmap\n" + named + b"]" + given + b"a\x86R\x85R.",
        "build": b"\x80\x02c__main__\nAny\n)\x81}" + text("f") + named + given + b"\x85Rsb.",
        "state_setter": b"\x80\x02c__main__\nAny\n)R(" + named + given + b"ttb.",
        "key": b"\x80\x02}" + named + given + b"\x85RNs.",
        "memo": b"\x80\x02" + named + b"q\x00" + given + b"q\x010h\x00h\x01\x85R.",
        "default_factory": b"\x80\x02ccollections\ndefaultdict\n" + named + b"\x85R" + text("x") + b"Ns.",
        "layout": b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + named + given + b"\x85R\x88}\x87R.",
        "from_type": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(" + named + b"NN" + given + b"\x85tR.",
        "persistent": b"\x80\x02" + named + given + b"\x85RQ.",
    }


HOSTILE = {
    f"{way}-{module}.{name}": (pickled, True)
    for module, name, argument in CALLS
    for way, pickled in ways_to_call(module, name, argument).items()
} | {
    "extension": (b"\x80\x02\x82\x01)R.", True),
    "attribute_of_a_class": (b"\x80\x02ctorch\nTensor\n}" + text("__reduce__") + b"Nsb.", True),
    "attribute_of_a_module": (b"\x80\x02cbuiltins\nNone\n}" + text("len") + b"Nsb.", True),
    "object_array": (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\n" + text("O") + b"\x85R\x89]cos\nsystem\n" + text("x") + b"\x85Ratb.",
        True,
    ),
    "codecs": (b"\x80\x02c_codecs\nencode\n" + text("x") + text("zlib") + b"\x86R.", True),
    "range_as_list": (b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\n\x8a\x06" + b"\xff" * 5 + b"\x00\x85R\x85R.", True),
    "huge_bytearray": (b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + b"\xff" * 5 + b"\x00\x85R.", True),
    "persistent_text": (b"Pos.system\n.", False),
}


def files_of(pickled, folder):
    """The pickle as the whole file, as a value in a torch zip and in the legacy format, and in a storage's bytes."""
    (folder / "plain.pkl").write_bytes(pickled)
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(folder / "zip.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    legacy = io.BytesIO()
    torch.save({}, legacy, _use_new_zipfile_serialization=False)
    head = legacy.getvalue()
    (folder / "legacy.pth").write_bytes(head.replace(pickle.dumps({}, 2), pickled))
    inner = pickle.dumps(pickled, 3)[2:-1]
    nested = b"\x80\x03ctorch.storage\n_load_from_bytes\n" + inner + b"\x85R."
    (folder / "nested.pkl").write_bytes(nested)
    return [folder / name for name in ("plain.pkl", "zip.pth", "legacy.pth", "nested.pkl")]


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A folder to work in; afterwards no hostile pickle has imported, opened or started anything."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


_WATCH = """
import os, sys
from pathlib import Path
import torch, numpy
import numpy._core.multiarray
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import open_checkpoint
from simsiam_eval.errors import DataError
import simsiam_eval.encoders.checkpoint_files.distributed_file, h5py, json, tarfile

folder, events, active = Path(sys.argv[1]), [], False
FORBIDDEN = ("exec", "compile", "import", "os.system", "subprocess", "os.mkdir", "os.remove", "shutil", "ctypes",
             "pickle.find_class", "marshal", "os.posix_spawn", "os.fork", "urllib", "socket", "object.__setattr__")

def hook(event, arguments):
    if not active:
        return
    if event == "open":
        path, mode = str(arguments[0]), arguments[1]
        if not path.startswith(str(folder)) or (isinstance(mode, str) and set(mode) & set("wax+")):
            events.append((event, path, mode))
    elif event.startswith(FORBIDDEN):
        events.append((event, str(arguments)[:200]))

def read(path):
    try:
        return repr(open_checkpoint(path).content)
    except DataError as error:
        return str(error)

for path in sorted(folder.iterdir())[:4]:  # everything that is imported late is imported now
    read(path)
sys.addaudithook(hook)
before = (dict(vars(os)), dict(vars(torch.Tensor)))
active = True
for path in sorted(folder.iterdir()):
    read(path)
active = False
assert before == (dict(vars(os)), dict(vars(torch.Tensor)))
print(len(events), events[:5])
"""


def test_hostile_pickles_execute_nothing(tmp_path):
    """In one process of its own, whose audit hook sees every import, call to the system, and opened file."""
    assert len(HOSTILE) > 400
    files, work = tmp_path / "files", tmp_path / "work"
    files.mkdir()
    work.mkdir()
    for number, (pickled, _) in enumerate(HOSTILE.values()):
        for path in files_of(pickled, work):
            path.rename(files / f"{number:04}-{path.name}")
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", _WATCH, str(files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=work, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0 []"
    assert sorted(tmp_path.rglob("*")) == before


def test_the_audit_hook_sees_what_pickle_would_execute(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "evil.pkl").write_bytes(ways_to_call("os", "mkdir", CANARY)["reduce"])
    loads = _WATCH.replace("open_checkpoint(path).content", "__import__('pickle').loads(path.read_bytes())")
    loads = loads.replace("except DataError as error", "except Exception as error").replace("[:4]", "[:0]")
    command = [sys.executable, "-c", loads, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path)})
    assert "pickle.find_class" in done.stdout and "os.mkdir" in done.stdout
    assert (tmp_path / CANARY).is_dir()


def load(pickled):
    return Unpickler(io.BytesIO(pickled)).load()


class TestTraps:
    """Pickles that would exhaust the stack, the memory or the time."""

    def test_deep_nesting(self):
        for opened, closed in ((b"]", b"a"), (b"(", b"t"), (b"}N", b"s")):
            value = load(opened * 60_000 + b"N" + closed * 60_000 + b".")
            del value

    def test_deep_tuple_as_a_key(self):
        with pytest.raises(UnpicklingError, match="key"):
            load(b"}" + b"N" + b"\x85" * 60_000 + b"Ns.")

    def test_exponential_tuple_as_a_key(self):
        with pytest.raises(UnpicklingError, match="key"):
            load(b"}N" + b"2\x86" * 60 + b"Ns.")

    def test_memo_index_takes_no_memory(self):
        assert load(b"Nr\xff\xff\xff\xff.") is None
        assert load(b"Np99999999999\n.") is None

    @pytest.mark.parametrize("code", [b"\x8e", b"\x8d", b"\x96"])
    def test_announced_length_takes_no_memory(self, code):
        with pytest.raises(UnpicklingError):
            load(code + struct.pack("<Q", 2**40) + b"abc.")

    def test_persistent_id(self):
        with pytest.raises(UnpicklingError, match="persistent"):
            load(b"Nq\x00Q.")

    @pytest.mark.parametrize(
        "pickled", [b"", b".", b"N", b"a.", b"NNa.", b"NNs.", b"\x86.", b"h\x05.", b"NR.", b"\xff", b"N\x93."]
    )
    def test_malformed(self, pickled):
        with pytest.raises(UnpicklingError):
            load(pickled)


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
