"""torchvision's training: stopped and resumed runs, failures, logs and speed."""

import contextlib
import json
from dataclasses import dataclass, field

import pytest
import torch

from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.errors import DataError, Stopped
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.signals import StopRequest
from tasks.detection.backends.base import RunContext
from tasks.detection.backends.step_timer import StepTimer
from tasks.detection.backends.torchvision.model import build_detector
from tasks.detection.backends.torchvision.training import Training
from tasks.detection.data.opening import open_detection_dataset
from tasks.detection.detector_spec import DetectorSpec
from tasks.detection.schedule import Schedule

SPEC = DetectorSpec("fpn", False, ("disc", "square", "triangle"), (64,), 64, 64, (1000, 1000), (20, 20), 8, 2)


class TrainingThatStops(Training):
    """Receives a signal during the given step."""

    stop_at = 0

    def _losses(self, batch, step):
        if step == self.stop_at:
            self.run.stop.status = 143
        return super()._losses(batch, step)


@pytest.fixture
def start(few_voc):
    """start(folder, ...) -> a Training of five steps, from the same random weights each time."""
    data = open_detection_dataset(str(few_voc), "train")

    def started(
        folder, training=Training, heads="fpn", iterations=5, lr=0.005, checkpoint_every=1000, context=RunContext
    ):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        encoder = ResNetEncoder(build_trunk("resnet18", "imagenet"), "resnet18", "imagenet")
        spec = DetectorSpec(heads, *list(vars(SPEC).values())[1:])
        run = context(
            Schedule(2, lr, iterations, (iterations - 1,), 0), folder, 0, Processes(torch.device("cpu")), StopRequest(),
            workers=0, checkpoint_every=checkpoint_every,
        )  # fmt: skip
        return training(build_detector(encoder, spec), data, False, spec.precise_bn, run)

    return started


def weights(folder):
    return torch.load(folder / "checkpoint_last.pth", weights_only=True)["model"]


def assert_same_weights(folder, other):
    first, second = weights(folder), weights(other)
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("heads", ["fpn", "c4"])
def test_resumed_run_equals_uninterrupted_run(start, tmp_path, heads):
    class StopsInThirdStep(TrainingThatStops):
        stop_at = 2

    start(tmp_path / "whole", heads=heads).train()
    with pytest.raises(Stopped, match=r"after step 3 of 5\. Run the same command to resume from") as stopped:
        start(tmp_path / "stopped", StopsInThirdStep, heads=heads).train()
    assert stopped.value.exit_status == 143
    start(tmp_path / "stopped", heads=heads).train()
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_stop_during_the_bn_estimate_costs_no_step(start, tmp_path):
    class StopsInTheEstimate(TrainingThatStops):
        stop_at = 5

    class TrainsNoStep(Training):
        def _train_step(self, batch):
            pytest.fail("a step is repeated")

    start(tmp_path / "whole").train()
    with pytest.raises(Stopped, match="after step 5 of 5"):
        start(tmp_path / "stopped", StopsInTheEstimate).train()
    start(tmp_path / "stopped", TrainsNoStep).train()
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_log_and_progress_of_a_resumed_run(start, tmp_path):
    class StopsInStep15(TrainingThatStops):
        stop_at = 14

    @dataclass(frozen=True)
    class Recorded(RunContext):
        steps: list = field(default_factory=list)

        @contextlib.contextmanager
        def progress(self, title, total, done=0):
            yield lambda steps, note="": self.steps.append(steps)

    start(tmp_path / "whole", iterations=22).train()
    with pytest.raises(Stopped):
        start(tmp_path / "stopped", StopsInStep15, iterations=22).train()
    resumed = start(tmp_path / "stopped", iterations=22, context=Recorded)
    resumed.train()
    log = (tmp_path / "whole" / "log.jsonl").read_text()
    assert (tmp_path / "stopped" / "log.jsonl").read_text() == log
    assert [json.loads(line)["step"] for line in log.splitlines()] == [20, 22]
    assert resumed.run.steps == [5, 2]


def test_speed_excludes_start_up_and_bn_statistics(start, tmp_path):
    class Timed(Training):
        now = 0.0

        def _train_step(self, batch):
            super()._train_step(batch)
            Timed.now += 1

        def _estimate_bn_statistics(self):
            Timed.now += 100

    training = start(tmp_path, Timed)
    training.timer = StepTimer(lambda: Timed.now)
    training.train()
    assert training.timer.rate == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_names_step_and_remedies(start, tmp_path, error):
    class RunsOutOfMemory(Training):
        def _train_step(self, batch):
            if self.step == 3:
                raise error
            super()._train_step(batch)

    with pytest.raises(DataError, match=r"Out of memory on cpu at step 4\. .*checkpoint_last.pth, or .*--batch-size"):
        start(tmp_path, RunsOutOfMemory, checkpoint_every=2).train()
    assert torch.load(tmp_path / "checkpoint_last.pth", weights_only=True)["step"] == 2
    start(tmp_path).train()


def test_loss_that_is_not_finite_stops_the_run(start, tmp_path):
    message = r"not finite at step 5\. .* another --out \(last good state: the beginning"
    with pytest.raises(DataError, match=message):
        start(tmp_path, lr=1e30).train()


@pytest.mark.parametrize("signal_status", [0, 143])
def test_checkpoint_with_values_that_are_not_finite_is_not_written(start, tmp_path, signal_status):
    """Neither between two reports of the loss nor at a signal; the checkpoint before stays."""
    name = "rpn.head.cls_logits.weight"

    class Ruined(Training):
        def _train_step(self, batch):
            super()._train_step(batch)
            if self.step == 4:  # the loss of this step is finite
                self.detector.state_dict()[name].fill_(float("nan"))
                self.run.stop.status = signal_status

    with pytest.raises(DataError, match=rf"at step {5 if signal_status else 6}\. .* state: .*_last.pth"):
        start(tmp_path, Ruined, iterations=19, checkpoint_every=3).train()
    assert torch.load(tmp_path / "checkpoint_last.pth", weights_only=True)["step"] == 3
    assert weights(tmp_path)[name].isfinite().all()


def test_full_disk_at_a_checkpoint_does_not_end_the_run(start, tmp_path, monkeypatch, capsys):
    save, calls = torch.save, []

    def full_at_first(content, file):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full_at_first)
    start(tmp_path, checkpoint_every=2).train()
    assert "training continues" in capsys.readouterr().err


def test_checkpoint_of_another_run_is_rejected(start, tmp_path):
    torch.save({"model": {}, "optimizer": {}}, tmp_path / "checkpoint_last.pth")
    with pytest.raises(DataError, match="is not a checkpoint of this run"):
        start(tmp_path)
