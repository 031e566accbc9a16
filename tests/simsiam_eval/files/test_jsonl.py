import json
from pathlib import Path

import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.files.jsonl import JsonLines


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_later_lines_and_a_truncated_last_line_are_dropped_at_resume(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path, 0)
    for step in (2, 4, 6):
        log.append({"step": step})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    JsonLines(path, 4).append({"step": 5})
    assert entries(path) == [{"step": 2}, {"step": 4}, {"step": 5}]


@pytest.mark.parametrize("line", ["null\n", "[1]\n", "{}\n", '{"step": "x"}\n', "not json\n"])
def test_invalid_lines_are_dropped(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(line + '{"step": 1}\n')
    JsonLines(path, 4)
    assert entries(path) == [{"step": 1}]


def test_line_truncated_by_a_full_disk_does_not_damage_the_next(tmp_path, monkeypatch):
    path, open_path = tmp_path / "log.jsonl", Path.open
    log = JsonLines(path, 0)

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:5])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *mode: FullDisk(open_path(self, *mode)))
        with pytest.raises(DataError, match="no space left"):
            log.append({"step": 1})
    log.append({"step": 2})
    log.append({"step": 3})
    assert path.read_text().splitlines()[1:] == ['{"step": 2}', '{"step": 3}']
