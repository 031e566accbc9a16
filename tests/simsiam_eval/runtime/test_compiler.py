"""torch.compile is rejected, in one sentence and before any work, where the machine's compiler is not there."""

import sysconfig

import pytest
import torch

from simsiam_eval.errors import UsageError
from simsiam_eval.runtime.compiler import require_compiler


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """tools("gcc", ...): the only programs there are; and a folder of Python's headers, empty."""
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    (tmp_path / "bin").mkdir()

    def made(*names):
        for name in names:
            (tmp_path / "bin" / name).touch(0o755)
        return tmp_path

    return made


@pytest.mark.parametrize(
    ("device", "there", "missing"),
    [
        ("cpu", (), r"a C\+\+ compiler \(g\+\+ or clang\+\+\)"),
        ("cpu", ("gcc",), r"a C\+\+ compiler"),
        ("cuda", ("g++",), r"a C compiler \(gcc or clang\)"),
        ("cuda", ("gcc",), "Python's headers"),
    ],
)
def test_what_is_missing_is_named(tools, device, there, missing):
    tools(*there)
    with pytest.raises(UsageError, match=f"--compile requires {missing}"):
        require_compiler(torch.device(device))


def test_what_is_there_is_enough(tools, monkeypatch):
    (tools("clang", "clang++", "mine") / "Python.h").touch()
    for device in ("cpu", "cuda"):
        require_compiler(torch.device(device))
    monkeypatch.setenv("CXX", "mine -O3")
    require_compiler(torch.device("cpu"))
    monkeypatch.setenv("CXX", "none")
    with pytest.raises(UsageError):
        require_compiler(torch.device("cpu"))


def test_pretraining_has_not_begun(tools, call, small, tmp_path):
    tools()
    result = call("pretrain", *small, "--epochs", 1, "--compile", "on", "--device", "cpu", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "--compile requires a C++ compiler" in result.stderr
    assert not (tmp_path / "run").exists()
