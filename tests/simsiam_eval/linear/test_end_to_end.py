import dataclasses

import numpy as np
import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.sets import train_and_test_features
from simsiam_eval.linear.end_to_end import EndToEndFeed
from simsiam_eval.sources.opening import open_source
from tasks.linear.settings import LinearEvalSettings


@pytest.fixture(scope="module")
def settings(checkpoint):
    return LinearEvalSettings(
        train="digits#test", test="digits#test", checkpoint=checkpoint, layer=("layer1", "layer2")
    )


@pytest.fixture(scope="module")
def train(settings):
    sets = settings.train, settings.test, settings.given_encoder()
    return train_and_test_features(*sets, settings.extraction(), torch.device("cpu"))[0]


def feed_of(settings, train, needed=None):
    needed = np.arange(len(train.rows)) if needed is None else needed
    source, options = open_source(settings.train, "train"), settings.extraction()
    return EndToEndFeed(
        settings.given_encoder(), source, options, train, needed, ["layer1", "layer2"], torch.device("cpu")
    )


def test_epochs_differ_seeds_repeat_and_only_needed_rows_are_computed(settings, train):
    feed = feed_of(settings, train)
    first, second = feed(0), feed(1)
    assert {layer: tuple(values.shape) for layer, values in first.items()} == {
        "layer1": (600, 64),
        "layer2": (600, 128),
    }
    assert not torch.equal(first["layer1"], second["layer1"])
    assert not torch.allclose(first["layer1"], torch.from_numpy(train.features))
    needed = np.array([3, 500])
    few = feed_of(settings, train, needed)(0)
    for layer in first:
        torch.testing.assert_close(few[layer][needed], first[layer][needed])
        assert not few[layer][100].any()
    other = feed_of(dataclasses.replace(settings, seed=1), train, needed)(0)
    assert not torch.equal(other["layer1"][3], first["layer1"][3])


def test_a_changed_encoder_is_an_error(settings, train):
    feed = feed_of(settings, train, np.array([0]))
    assert feed.checked_encoder()["encoder_unchanged"]
    with torch.no_grad():
        feed._encoder.trunk.conv1.weight += 1e-3
    with pytest.raises(DataError, match="weights changed"):
        feed.checked_encoder()


def test_features_are_those_of_their_rows_of_the_source(settings, train):
    part = train.subset(train.labels == 3)
    whole, some = feed_of(settings, train)(0), feed_of(settings, part)(0)
    torch.testing.assert_close(some["layer2"], whole["layer2"][torch.from_numpy(train.labels == 3)])
