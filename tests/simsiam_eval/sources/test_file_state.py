"""What changes a key of files."""

from simsiam_eval.sources.file_state import file_state, files_key


def test_key_follows_files_and_settings(tmp_path):
    file = tmp_path / "a"
    keys = {files_key([file], "x")}
    file.write_text("1")
    keys |= {files_key([file], "x"), files_key([file], "y"), files_key([file, file], "x")}
    file.write_text("12")
    keys.add(files_key([file], "x"))
    assert len(keys) == 5


def test_missing_files_have_a_state(tmp_path):
    for path in (tmp_path / "none", "a\0b"):
        assert file_state(path) == (-1, -1, -1, -1)
