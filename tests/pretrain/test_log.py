import json

import pytest

from pretrain.log import RunLog
from simsiam_eval.errors import UsageError


def test_entries_of_later_steps_by_a_killed_process_are_dropped(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.write("health", step, {"output_std": step / 10})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "step": 7, "lo')  # torn by a kill
    log = RunLog(tmp_path, 4)
    log.write("epoch", 6, {"epoch": 0, "loss": -0.5})
    log.close()
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"kind": "health", "step": 2, "output_std": 0.2},
        {"kind": "health", "step": 4, "output_std": 0.4},
        {"kind": "epoch", "step": 6, "epoch": 0, "loss": -0.5},
    ]


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, 0, tensorboard=True)
    log.write("epoch", 6, {"loss": -0.5, "name": "not a number"})
    log.write("epoch", 12, {"loss": -0.75})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["epoch/loss"]
    assert [(event.step, event.value) for event in events.Scalars("epoch/loss")] == [(6, -0.5), (12, -0.75)]


def test_wandb_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"simsiam-eval\[wandb\]"):
        RunLog(tmp_path, 0, wandb_project="project")


def test_a_full_disk_ends_tensorboards_events_and_not_the_run(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    log = RunLog(tmp_path, 0, tensorboard=True)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    for step in (1, 2):
        log.write("epoch", step, {"loss": 0.5})
    log.close()
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
