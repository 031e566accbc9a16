import pytest

from simsiam_eval.encoders.checkpoint_files.python_config import settings_in_python


def test_only_plain_values_are_read():
    text = "import os\nsize = 3\nos.system('ls')\na = dict(b=[size, -1.5, (True,)], **size)\nc = {'d': os.getcwd(), size: 1}"
    assert settings_in_python(text) == {"size": 3, "a": {"b": [3, -1.5, [True]]}, "c": {"d": None}}


@pytest.mark.parametrize(
    "text", ["a = ", "a = 1\0", "a = " + "(" * 5000, "a = " + "-" * 100_000 + "1", "a=1\n" * 2**19]
)
def test_what_is_not_python_is_left_out(text):
    assert settings_in_python(text) == {}
