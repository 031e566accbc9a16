import json

import pytest

from pretrain.log import RunLog
from pretrain.settings import PretrainSettings
from simsiam_eval.errors import UsageError


@pytest.fixture
def settings(tmp_path):
    return PretrainSettings(data="x", out=tmp_path, tensorboard=False)


def lines(settings):
    return [json.loads(line) for line in (settings.out / "log.jsonl").read_text().splitlines()]


def test_what_an_earlier_process_wrote_of_later_steps_is_dropped(settings):
    log = RunLog(settings, 0)
    for step in (2, 4, 6):
        log.write("health", step, {"output_std": step / 10})
    log.close()
    with (settings.out / "log.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "step": 7, "lo')  # torn by a kill
    log = RunLog(settings, 4)
    log.write("epoch", 6, {"epoch": 0, "loss": -0.5})
    log.close()
    assert lines(settings) == [
        {"kind": "health", "step": 2, "output_std": 0.2},
        {"kind": "health", "step": 4, "output_std": 0.4},
        {"kind": "epoch", "step": 6, "epoch": 0, "loss": -0.5},
    ]


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(PretrainSettings(data="x", out=tmp_path), 0)
    log.write("epoch", 6, {"loss": -0.5, "name": "left out"})
    log.write("epoch", 12, {"loss": -0.75})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["epoch/loss"]
    assert [(one.step, one.value) for one in events.Scalars("epoch/loss")] == [(6, -0.5), (12, -0.75)]


def test_wandb_without_its_package_is_one_sentence(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"simsiam-eval\[wandb\]"):
        RunLog(PretrainSettings(data="x", out=tmp_path, tensorboard=False, wandb="project"), 0)


def test_a_full_disk_ends_tensorboards_events_and_not_the_run(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    log = RunLog(PretrainSettings(data="x", out=tmp_path), 0)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    for step in (1, 2):
        log.write("epoch", step, {"loss": 0.5})
    log.close()
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
