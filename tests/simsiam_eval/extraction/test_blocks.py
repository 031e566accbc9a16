"""Blocks mapped by threads: in order, whatever goes wrong, and no thread left."""

import threading
import time

import numpy as np
import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.blocks import Blocks, map_blocks
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.sources.base import ArraySource

SMALL = Preprocessing(resize=8, crop=8)


class Lost(ArraySource):
    """A source whose 17th image is on a share that is gone."""

    def image(self, row):
        if row == 16:
            raise DataError("The share is gone.")
        return super().image(row)


def blocks_of(kind=ArraySource, rows=40):
    pixels = np.arange(rows, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    source = kind("numbered", pixels, np.full(rows, -1), None, [str(row) for row in range(rows)])
    return Blocks(source, SMALL, range(rows), range(0, rows, 4), 4, 0, True, 0)


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request):
    """As many as torch may use; there are as many afterwards, and none of ours."""
    before, others = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(request.param)
    yield request.param
    born_later = []
    thread = threading.Thread(target=lambda: born_later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *born_later] == [request.param] * 2
    assert threading.active_count() == others
    torch.set_num_threads(before)


def first_rows(found):
    return [block.rows.start for block in found]


def test_in_order_and_as_many_at_once_as_torch_may_use(threads):
    at_work, most, all_there = [], [], threading.Barrier(threads)

    def compute(block):
        assert torch.get_num_threads() == 1
        at_work.append(block)
        most.append(len(at_work))
        if block.rows.start < 4 * threads:
            all_there.wait(timeout=30)  # broken, an error, where fewer are at work at once
        time.sleep(0.02 if block.rows.start % 8 else 0.002)
        at_work.pop()
        return block

    blocks = blocks_of()
    found = list(map_blocks(blocks, compute))
    assert first_rows(found) == list(range(0, 40, 4))
    assert all(torch.equal(block.pixels, blocks[place].pixels) for place, block in enumerate(found))
    assert max(most) == threads


def test_large_blocks_share_the_cores(monkeypatch, threads):
    """Memory does not grow with the cores where --extract-batch is large."""
    monkeypatch.setattr("simsiam_eval.extraction.blocks._AT_ONCE", 6)
    lock, torchs = threading.Lock(), []

    def compute(block):
        assert lock.acquire(blocking=False)  # alone
        torchs.append(torch.get_num_threads())
        time.sleep(0.005)
        lock.release()

    list(map_blocks(blocks_of(), compute))
    assert torchs == [threads] * 10


def test_what_goes_wrong_comes_in_its_place():
    found = map_blocks(blocks_of(Lost), lambda block: block)
    assert first_rows(next(found) for _ in range(4)) == [0, 4, 8, 12]
    with pytest.raises(DataError, match="share is gone"):
        next(found)


def test_an_error_of_the_computation():
    def compute(block):
        if block.rows.start == 8:
            raise RuntimeError("out of memory")
        return block

    found = map_blocks(blocks_of(), compute)
    assert first_rows(next(found) for _ in range(2)) == [0, 4]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(found)


def test_who_stops_early_leaves_nothing_at_work(threads):
    done = []
    found = map_blocks(blocks_of(), lambda block: done.append(block))
    next(found)
    found.close()
    assert len(done) <= 4 * threads + 1


def test_no_blocks():
    assert list(map_blocks(blocks_of(rows=0), lambda block: block)) == []


def test_what_is_left_ends_at_once(threads):
    begun, first, gone = [], threading.Event(), threading.Event()

    def compute(block):
        if first.is_set():  # from here on all are at work until the caller has gone
            begun.append(block.rows.start)
            gone.wait(timeout=30)
        elif block.rows.start == 0:
            first.set()
        return block

    found = map_blocks(blocks_of(rows=400), compute)
    next(found)
    closing = threading.Timer(0.3, gone.set)
    closing.start()
    found.close()
    closing.join()
    assert len(begun) <= threads
