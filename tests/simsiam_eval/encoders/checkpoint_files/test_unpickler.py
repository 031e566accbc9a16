"""Nothing that a pickle names is imported, called or changed, in any protocol, format or nesting."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile

import pytest
import torch

from simsiam_eval.encoders.checkpoint_files.unpickler import Unpickler, UnpicklingError

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
