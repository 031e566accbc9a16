"""What is said is never worth the work."""

import io
import sys

import pytest

from simsiam_eval.runtime.progress import progress, say


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [None, Full()])
def test_work_continues_where_nobody_can_read(monkeypatch, stream):
    monkeypatch.setattr("simsiam_eval.runtime.progress._PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", stream)
    say("hello")
    with progress("work", 3) as advance:
        advance(3)


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("simsiam_eval.runtime.progress._PLAIN_SECONDS", 0.0)
    with progress("work", 3, done=1) as advance:
        advance(2, "soon done")
    assert capsys.readouterr().err == "work: 3/3 soon done\n"


def test_a_bar_on_a_terminal_that_closes(monkeypatch):
    class Closed(io.StringIO):
        lost = False

        def isatty(self):
            return True

        def write(self, text):
            if self.lost:
                raise OSError(5, "Input/output error")
            return super().write(text)

        def flush(self):
            self.write("")

    stream = Closed()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("work", 3) as advance:
        advance(1)
        stream.lost = True
        advance(2)
    assert "work" in stream.getvalue()


def test_control_characters_of_names_do_not_reach_the_terminal(capsys):
    say("skipped \x1b[31mred\x9b.png, \u202egnp.exe")
    assert capsys.readouterr().err == "skipped \\x1b[31mred\\x9b.png, \\u202egnp.exe\n"
