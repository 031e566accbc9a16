"""What is in a run folder, and which runs may be resumed in it."""

import fcntl
import json
import shutil

import pytest
import torch
from PIL import Image

EPOCHS, IMAGES = 3, 50  # as conftest's `tiny` has them


def test_a_finished_run_is_left_unchanged(pretrain, tiny, whole):
    before = {path.name: path.read_bytes() for path in whole.glob("checkpoint_*")}
    assert pretrain([*tiny, "--out", whole]) == 0
    assert before == {path.name: path.read_bytes() for path in whole.glob("checkpoint_*")}
    assert json.loads((whole / "result.json").read_text())["metrics"]["epoch"] == EPOCHS - 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--lr", "0.5"], "--lr 0.03, not 0.5"),
        (["--seed", "3"], "--seed 0, not 3"),
        (["--decode", "scaled"], "--decode full, not scaled"),
        (["--no-stop-gradient"], "--stop-gradient, not --no-stop-gradient"),
        (["--resume", "never"], "already contains a run"),
    ],
)
def test_a_changed_setting_is_rejected_by_name(call, tiny, whole, changed, message):
    rejected = call("pretrain", *tiny, "--out", whole, *changed)
    assert rejected.exit_code == 1
    assert message in rejected.stderr


def test_a_run_from_before_there_was_scaled_decoding_resumes(call, tiny, whole, tmp_path):
    old = torch.load(whole / "checkpoint_last.pth.tar", weights_only=True)
    del old["simsiam_eval"]["settings"]["decode"]
    torch.save(old, tmp_path / "checkpoint_last.pth.tar")
    assert call("pretrain", *tiny, "--out", tmp_path).exit_code == 0
    rejected = call("pretrain", *tiny, "--out", tmp_path, "--decode", "scaled")
    assert "--decode full, not scaled" in rejected.stderr


def test_other_images_are_rejected(call, tiny, whole, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (12, 12)).save(tmp_path / "images" / f"other{number}.png")
    rejected = call("pretrain", *tiny, "--data", tmp_path / "images", "--out", whole)
    assert rejected.exit_code == 1
    assert "other images" in rejected.stderr


def test_resume_must_requires_a_run(call, tiny, tmp_path):
    rejected = call("pretrain", *tiny, "--out", tmp_path / "empty", "--resume", "must")
    assert rejected.exit_code == 1
    assert "no run" in rejected.stderr


def test_two_processes_in_one_folder(call, tiny, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rejected = call("pretrain", *tiny, "--out", tmp_path)
    assert rejected.exit_code == 1
    assert "Another process" in rejected.stderr


def test_names_that_a_kill_has_prevented_are_restored(pretrain, tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    last = f"checkpoint_{EPOCHS - 1:04d}.pth.tar"
    (tmp_path / "run" / last).unlink()
    (tmp_path / "run" / "checkpoint_0000_backup.pth.tar").write_bytes(b"the user's own")
    assert pretrain([*tiny, "--out", tmp_path / "run"]) == 0
    assert (tmp_path / "run" / last).read_bytes() == (whole / last).read_bytes()


def test_a_file_of_the_user_among_the_checkpoints(pretrain, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    arguments = [*tiny, "--out", tmp_path / "run", "--checkpoint-every", "1 epochs"]
    stray = f"open({str(tmp_path / 'run' / 'checkpoint_0000_backup.pth.tar')!r}, 'w').close()"
    prepare = f"""
from pretrain.log import TrainingLog
before_epoch = TrainingLog.before_epoch
def noted(self):
    {stray}
    before_epoch(self)
TrainingLog.before_epoch = noted
"""
    assert pretrain(arguments, prepare=prepare) == 0


def test_unsynchronized_bn_of_another_number_of_processes_is_another_run(call, tiny, whole, change, tmp_path):
    def of_two(own):
        own["settings"]["sync_bn"], own["processes"] = False, 2

    change(whole, tmp_path, of_two)
    assert "a run of 2 processes" in call("pretrain", *tiny, "--no-sync-bn", "--out", tmp_path).stderr


def test_a_damaged_checkpoint_names_the_one_before_it(call, tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "checkpoint_last.pth.tar").write_bytes(b"half")
    said = call("pretrain", *tiny, "--out", tmp_path / "run")
    assert said.exit_code == 1 and f"copy {tmp_path / 'run' / f'checkpoint_{EPOCHS - 1:04d}'}" in said.stderr


def test_a_checkpoint_cut_by_a_kill_is_removed(call, tiny, whole, change, tmp_path):
    change(whole, tmp_path, lambda own: None)
    (tmp_path / ".checkpoint_last.pth.tar.0123456789ab.tmp").write_bytes(b"half")
    assert call("pretrain", *tiny, "--out", tmp_path).exit_code == 0
    assert not list(tmp_path.glob(".checkpoint_*"))
