import pytest

from simsiam_eval.errors import UsageError
from tasks.linear.settings import LinearEvalSettings


def test_presets_are_the_protocols():
    chosen = {name: LinearEvalSettings(preset=name, train="a", test="b") for name in LinearEvalSettings.PRESETS}
    names = ("lars", "lr", "batch_size", "epochs", "schedule", "momentum", "weight_decay")
    assert {name: tuple(getattr(one, field) for field in names) for name, one in chosen.items()} == {
        "simsiam-code": (True, (0.1,), 4096, 90, "cosine", 0.9, (0.0,)),
        "simsiam-paper": (True, (0.02,), 4096, 90, "cosine", 0.9, (0.0,)),
        "moco-sgd": (False, (30.0,), 256, 100, "step", 0.9, (0.0,)),
        "dino": (False, (0.001,), 1024, 100, "cosine", 0.9, (0.0,)),
        "small": (True, (10.0,), 256, 100, "cosine", 0.9, (0.0,)),
        "logistic": (None,) * 7,
    }


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (dict(preset="logistic", lr=1.0), "--lr cannot be used with --preset logistic"),
        (dict(preset="logistic", weight_decay=1.0), "--weight-decay cannot be used"),
        (dict(c=1.0), "-C cannot be used with --preset simsiam-code"),
        (dict(sweep=True, lr=(1.0, 2.0)), "--sweep requires a single --lr"),
        (dict(sweep=True, preset="logistic"), "--sweep cannot be used with --preset logistic"),
        (dict(preset="logistic", views=2), "--views cannot be used with --preset logistic, which has no epochs"),
        (dict(end_to_end=True), "requires --checkpoint"),
        (dict(end_to_end=True, views=2), "cannot be combined"),
        (dict(views=2, per_layer=True), "requires a single --layer"),
        (dict(trials=2, save_head="h"), "saves a single head"),
        (dict(momentum=1.0), "--momentum must be below 1"),
        (dict(held_out=1.0), "--held-out must be below 1"),
        (dict(trials=2, seed=2**32 - 1), r"at most 2\^32"),
        (dict(preset="logistic", c=-1.0), "-C must be above 0"),
        (dict(fraction=1.5), "--fraction must be at most 1"),
        (dict(shots=0), "--shots must be at least 1"),
    ],
)
def test_contradictory_settings_are_rejected(values, says):
    with pytest.raises(UsageError, match=says):
        LinearEvalSettings(train="a.h5", test="b.h5", **values)
