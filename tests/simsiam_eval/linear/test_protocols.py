import subprocess
import sys

import pytest

from simsiam_eval.linear.protocols import PROTOCOLS, HeadRecipe, LogisticRecipe, SGDProtocol
from tasks.linear.settings import LinearEvalSettings


def test_presets_of_the_command_are_the_protocols():
    for name, protocol in PROTOCOLS.items():
        settings = LinearEvalSettings(preset=name, train="a.h5", test="b.h5")
        assert settings.linear_protocol() == protocol
        assert settings.protocol() == name


def test_recipes_are_every_combination_with_the_learning_rate_innermost():
    protocol = SGDProtocol((1.0, 2.0), 64, 5, weight_decay=(0.0, 0.1), scaling=("none", "l2"))
    recipes = protocol.recipes(seed=3, layers=["layer4", "pool"])
    assert len(set(recipes)) == 16
    assert [(one.layer, one.scaling, one.weight_decay, one.lr) for one in recipes[:3]] == [
        ("layer4", "none", 0.0, 1.0),
        ("layer4", "none", 0.0, 2.0),
        ("layer4", "none", 0.1, 1.0),
    ]
    assert {(one.seed, one.batch_size, one.epochs) for one in recipes} == {(3, 64, 5)}


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [("simsiam-code", 1, HeadRecipe), ("small", 1, HeadRecipe), ("logistic", 7, LogisticRecipe)],
)
def test_a_protocol_has_recipes_of_one_kind(name, count, kind):
    recipes = PROTOCOLS[name].recipes()
    assert len(recipes) == count and all(type(recipe) is kind for recipe in recipes)


def test_protocols_are_read_without_torch():
    code = "import sys, simsiam_eval.linear.protocols; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
