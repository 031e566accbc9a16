import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.loader import Loader, Schedule, resident_pixels
from pretrain.views.parameters import ViewRecipe
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import ArraySource, PathSource
from simsiam_eval.vocabulary import DECODINGS

CPU = torch.device("cpu")
UNCHANGED = {"recipe": ViewRecipe()}
GRAY_LEVELS = Preprocessing(8, 8, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)


CIFAR10 = ViewRecipe(crop_area=0.2, jitter=0.8, jitter_hue=0.1, grayscale=0.2, flip=0.5)


def loader(source, processes=None, preprocessing=GRAY_LEVELS, recipe=CIFAR10, **options):
    options = {"image_size": 8, "batch_size": 4, "workers": 0} | options
    return Loader(source, recipe, preprocessing, processes or Processes(CPU), **options)


def rows(batch_size, step):
    """Rows of a step of the first epoch of eleven images."""
    return Schedule(11, batch_size, CIFAR10, 0, slice(None)).rows(0, step)


def epoch(made, number):
    return list(made.batches(number * len(made), (number + 1) * len(made)))


@pytest.fixture
def source():
    """Eleven images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    return ArraySource("noise", pixels, np.full(11, -1), None, [f"image {row}" for row in range(11)])


@pytest.fixture
def numbered():
    """Row r is a plain square of gray level r."""
    pixels = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    return ArraySource("numbered", pixels, np.full(11, -1), None, [str(row) for row in range(11)])


@pytest.fixture
def files(numbered, tmp_path):
    """The same as files."""
    paths = [tmp_path / f"{row:02d}.png" for row in range(11)]
    for row, path in enumerate(paths):
        Image.fromarray(numbered.image(row).pixels()).save(path)
    return PathSource(paths)


def rows_of(batches):
    return [round(float(one)) for batch in batches for one in batch.view1[:, 0, 0, 0]]


def same(first, second):
    return torch.equal(first.view1, second.view1) and torch.equal(first.view2, second.view2)


def test_workers_and_resident_pixels_change_only_rounding(files):
    made = [loader(files, workers=0, resident=False), loader(files, workers=2, resident=False), loader(files)]
    for number in (0, 1, 0):
        alone, helped, resident = (epoch(one, number) for one in made)
        assert len(alone) == len(helped) == len(resident) == 2
        assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
        for a, b in zip(alone, resident, strict=True):
            torch.testing.assert_close(a.view1, b.view1, atol=2, rtol=0)


def test_a_batch_does_not_depend_on_those_before_it_nor_on_global_seeds(source):
    whole = list(loader(source).batches(0, 6))
    torch.manual_seed(7)
    np.random.seed(7)
    later = list(loader(source).batches(3, 6))
    assert all(same(a, b) for a, b in zip(whole[3:], later, strict=True))


def test_large_jpegs_may_be_decoded_smaller_once_for_both_crops(tmp_path, monkeypatch):
    ramp = np.linspace(0, 255, 400).astype(np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(90)), axis=2)
    paths = [tmp_path / f"{row}.jpg" for row in range(4)]
    for path in paths:
        Image.fromarray(picture).save(path, quality=95)
    decoded = []
    jpeg = type(PathSource(paths).image(0))
    reduced = jpeg.reduced

    def noted(image, most):
        found = reduced(image, most)
        decoded.append(found[1])
        return found

    monkeypatch.setattr(jpeg, "reduced", noted)
    options = {"image_size": 32, "resident": False, "recipe": ViewRecipe(crop_area=0.2, flip=0.5)}
    whole, scaled = (epoch(loader(PathSource(paths), decode=decode, **options), 0)[0] for decode in DECODINGS)
    assert decoded[:4] == [1] * 4
    assert len(decoded) == 8
    assert set(decoded[4:]) <= {2, 4}  # crops of 179 to 400 pixels a side, for views of 32
    for a, b in zip(whole, scaled, strict=True):
        assert not torch.equal(a, b)
        assert (a - b).abs().mean() < 1.5  # gray levels


def test_only_decoding_counts_as_waiting(files):
    """Images that are held have none, however long their views take."""
    held, decoded = loader(files, resident=True), loader(files, resident=False, workers=0)
    for made in (held, decoded):
        list(made.batches(0, 2))
    assert held.waited == 0 < decoded.waited


def test_views_differ_from_each_other_and_between_epochs_and_seeds(source):
    first, second = loader(source, batch_size=11).batches(0, 2)
    assert first.view1.shape == first.view2.shape == (11, 3, 8, 8)
    assert first.view1.dtype == torch.float32
    assert not (first.view1 == first.view2).flatten(1).all(dim=1).any()
    (other,) = loader(source, batch_size=11, seed=1).batches(0, 1)

    def pictures(batch):
        return {one.numpy().tobytes() for one in batch.view1}

    assert not pictures(first) & pictures(second)
    assert not pictures(first) & pictures(other)


def test_every_epoch_has_another_order_and_drops_the_incomplete_batch(numbered):
    made = loader(numbered, **UNCHANGED)
    orders = []
    for number in range(12):
        batches = epoch(made, number)
        assert [len(batch.view1) for batch in batches] == [4, 4]
        assert all(torch.equal(batch.view1, batch.view2) for batch in batches)
        orders.append(tuple(rows_of(batches)))
    assert all(len(set(order)) == 8 for order in orders)  # no image twice in an epoch
    assert len(set(orders)) == 12
    assert set().union(*orders) == set(range(11))  # and none is always the one dropped


def test_views_are_normalized_as_the_encoder_will_be(numbered):
    preprocessing = Preprocessing(8, 8)
    (batch,) = loader(numbered, preprocessing=preprocessing, batch_size=11, **UNCHANGED).batches(0, 1)
    plain = preprocessing.normalize(torch.arange(11, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
    order = rows(11, 0)
    torch.testing.assert_close(batch.view1, plain[torch.from_numpy(order)], atol=1e-5, rtol=1e-5)


def test_processes_share_the_batches_of_one(source):
    whole = epoch(loader(source, batch_size=6), 0)
    parts = [epoch(loader(source, Processes(CPU, rank, 3), batch_size=6), 0) for rank in range(3)]
    for number, batch in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[number].view1 for part in parts]), batch.view1)
        torch.testing.assert_close(torch.cat([part[number].view2 for part in parts]), batch.view2)


@pytest.mark.parametrize("options", [{"resident": False}, {"resident": False, "workers": 2}, {"resident": True}])
def test_an_unreadable_images_place_is_taken_by_the_next_readable_one(files, options, capsys):
    for row, content in ((2, files.paths[2][:4].encode()), (4, None)):
        path = Path(files.paths[row])
        path.write_bytes(content) if content else path.unlink()
    made = loader(files, batch_size=5, **UNCHANGED, **options)
    order = [rows(5, step).tolist() for step in (0, 1)]
    shown = [rows_of([batch]) for batch in epoch(made, 0)]
    for asked, got in zip(order, shown, strict=True):
        ring = asked + asked
        for place in range(len(asked)):
            expected = next(one for one in ring[place:] if one not in (2, 4))
            assert got[place] == expected
    met = {row for batch in order for row in batch} & {2, 4}
    assert set(made.unreadable) >= met
    assert made.unreadable.get(4, "no such file") == "no such file"
    said = capsys.readouterr().err
    assert all(said.count(f"(row {row})") == 1 for row in met)


def test_strict_stops_at_an_unreadable_image(files):
    os.remove(files.paths[3])
    with pytest.raises(DataError, match=r"03.png \(row 3\).*--strict"):
        epoch(loader(files, batch_size=11, strict=True, resident=False), 0)
    with pytest.raises(DataError, match=r"03.png \(row 3\).*--strict"):
        loader(files, batch_size=11, strict=True, resident=True)


@pytest.mark.parametrize("resident", [False, None])
def test_a_batch_without_a_readable_image_is_an_error(tmp_path, resident):
    with pytest.raises(DataError, match="No image in a batch"):
        epoch(loader(PathSource([tmp_path / "a.png", tmp_path / "b.png"]), batch_size=2, resident=resident), 0)


def test_only_small_images_of_one_size_are_resident(files, tmp_path):
    pixels, reasons = resident_pixels(files, Intensity())
    assert pixels.shape == (11, 3, 8, 8)
    assert pixels[:, 1, 2, 3].tolist() == list(range(11))
    assert reasons == {}
    Image.new("RGB", (9, 8)).save(files.paths[10])
    assert resident_pixels(files, Intensity()) == (None, {})
    with pytest.raises(UsageError, match="one size"):
        loader(files, resident=True)
    Image.new("RGB", (200, 8)).save(tmp_path / "large.png")
    assert resident_pixels(PathSource([tmp_path / "large.png"]), Intensity()) == (None, {})


def test_too_few_images_and_batches_that_cannot_be_divided_are_rejected(source):
    with pytest.raises(DataError, match=r"noise has 11 images.*12.*--batch-size"):
        loader(source, batch_size=12)
    with pytest.raises(UsageError, match="2 processes"):
        loader(source, Processes(CPU, 0, 2), batch_size=5)
    with pytest.raises(UsageError, match="--accumulate 4"):
        loader(source, Processes(CPU, 0, 2), batch_size=4, accumulate=4)
