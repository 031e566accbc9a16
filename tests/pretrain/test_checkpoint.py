"""A run that is killed at any instant and resumed becomes the run that was never interrupted, bit for bit."""

import copy
import itertools
import random
import types

import pytest
import torch

from pretrain import checkpoint as checkpoints
from pretrain.build import build_model, build_optimizer, training_recipe
from pretrain.callback import Callback, Position
from pretrain.checkpoint import random_state, restore
from pretrain.run_folder import RunFolder
from pretrain.settings import PretrainSettings
from pretrain.train import train
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.encoders.report import RANDOM_STATE_KEY
from simsiam_eval.runtime.processes import Processes

CPU = torch.device("cpu")
EPOCHS, IMAGES = 3, 50  # as conftest's `tiny` has them


def test_checkpoints_by_minutes_within_an_epoch(call, tiny, tmp_path, monkeypatch):
    """By a clock that advances forty seconds whenever it is read: a checkpoint at every second step."""
    clock, saved, save = itertools.count(0, 40), [], RunFolder.save

    def noted(self, model, optimizer, position, state):
        saved.append((position.epoch, position.step))
        save(self, model, optimizer, position, state)

    monkeypatch.setattr(checkpoints, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(RunFolder, "save", noted)
    made = call("pretrain", *tiny, "--out", tmp_path / "run", "--checkpoint-every", "1 minutes")
    assert made.exit_code == 0, made.output
    assert any(step for _, step in saved)
    assert saved[-1] == (EPOCHS, 0)
    assert not any((epoch, step + 1) in saved for epoch, step in saved if step)


def test_a_run_killed_at_ten_instants_is_the_uninterrupted_run(pretrain, tiny, whole, assert_same_run, tmp_path):
    rng, kills, runs = random.Random(0), 0, 0
    instants = [-1, *(rng.uniform(0.0, 0.8) for _ in range(9))]
    while kills < len(instants):  # a run that ends before it is killed is followed by another
        out = tmp_path / f"run{runs}"
        status = pretrain([*tiny, "--out", out, "--workers", kills % 3], kill=instants[kills])
        assert status in (0, 9)
        kills, runs = kills + (status == 9), runs + (status == 0)
        assert not [path for path in out.glob("checkpoint_*") if path.stat().st_size < 1_000_000]
    assert pretrain([*tiny, "--out", tmp_path / f"run{runs}"]) == 0
    for number in range(runs + 1):
        assert_same_run(whole, tmp_path / f"run{number}")
    names = {path.name for path in (tmp_path / "run0").glob("checkpoint_*")}
    assert names == {f"checkpoint_{name}.pth.tar" for name in ("last", "best_knn", "0001", "0002")}


def test_weights_that_are_not_finite_do_not_replace_good_ones(call, tiny, tmp_path):
    """With one step per epoch, whose loss, of the weights before it, is finite."""
    once = ("--batch-size", IMAGES, "--lr", 1e30, "--out", tmp_path)
    stopped = call("pretrain", *tiny, *once)
    assert stopped.exit_code == 1
    assert "weights exceed the range of float32" in stopped.stderr and "no checkpoint" in stopped.stderr
    assert not list(tmp_path.glob("checkpoint_*"))


def take_step(settings, model, optimizer, views):
    recipe = training_recipe(settings, steps=1, device=CPU)
    train(model, optimizer, iter([views]), recipe, Position(), Callback())


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_after_a_change_of_memory_format_is_the_same(fused):
    views = torch.randn(2, 8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    options = dict(data="-", out="-", preset="digits", image_size=20, batch_size=8, fused=fused, epochs=1)
    contiguous, last = (PretrainSettings(channels_last=value, **options) for value in (False, True))
    models = [build_model(settings, Processes(CPU)) for settings in (contiguous, last)]
    optimizers = [build_optimizer(contiguous, model, CPU) for model in models]
    take_step(contiguous, models[0], optimizers[0], views)
    saved = {
        "state_dict": {f"module.{name}": value.clone() for name, value in models[0].state_dict().items()},
        "optimizer": copy.deepcopy(optimizers[0].state_dict()),
        METADATA_KEY: {RANDOM_STATE_KEY: random_state(), "position": vars(Position())},
    }
    take_step(contiguous, models[0], optimizers[0], views)
    restore(saved, models[1], optimizers[1], CPU)
    take_step(last, models[1], optimizers[1], views)
    for name, value in models[0].named_parameters():
        torch.testing.assert_close(models[1].get_parameter(name), value, rtol=1e-4, atol=1e-5)


def test_a_run_resumes_in_another_memory_format(call, tiny, whole, change, tmp_path):
    for before, given in ((True, "--no-channels-last"), (None, "--channels-last"), (False, None)):
        change(whole, tmp_path, lambda own, before=before: own["settings"].update(channels_last=before))
        assert call("pretrain", *tiny, *filter(None, [given]), "--out", tmp_path).exit_code == 0


@pytest.mark.parametrize(("before", "now"), [(True, None), (None, True)])
def test_the_optimizers_implementation_is_this_machines(before, now):
    """A run started on a CPU resumes with the fused SGD of a GPU, and --no-fused may be given later."""

    def trained(fused):
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=fused)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = trained(before)
    own = {"position": {}, RANDOM_STATE_KEY: random_state()}
    saved = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), METADATA_KEY: own}
    other, again = trained(now)
    restore(saved, other, again, CPU)
    assert again.param_groups[0]["fused"] is now
    assert torch.equal(again.state[other.weight]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"])
