"""map_blocks: results in order, errors in order, and no thread left behind."""

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


class FailingSource(ArraySource):
    """A source that fails at its 17th image."""

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
    """Torch thread count; afterwards it is the same, also in new threads, and no thread is left."""
    original_count, active_threads = torch.get_num_threads(), threading.active_count()
    torch.set_num_threads(request.param)
    yield request.param
    counts_in_new_thread = []
    thread = threading.Thread(target=lambda: counts_in_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *counts_in_new_thread] == [request.param] * 2
    assert threading.active_count() == active_threads
    torch.set_num_threads(original_count)


def first_rows(blocks):
    return [block.rows.start for block in blocks]


def test_results_are_in_order_and_one_block_runs_per_torch_thread(threads):
    running, running_counts, all_running = [], [], threading.Barrier(threads)

    def compute(block):
        assert torch.get_num_threads() == 1
        running.append(block)
        running_counts.append(len(running))
        if block.rows.start < 4 * threads:
            all_running.wait(timeout=30)  # raises if fewer blocks run at the same time
        time.sleep(0.02 if block.rows.start % 8 else 0.002)
        running.pop()
        return block

    blocks = blocks_of()
    results = list(map_blocks(blocks, compute))
    assert first_rows(results) == list(range(0, 40, 4))
    assert all(torch.equal(result.pixels, block.pixels) for result, block in zip(results, blocks, strict=True))
    assert max(running_counts) == threads


def test_large_blocks_share_the_cores(monkeypatch, threads):
    """With a large --extract-batch, memory does not grow with the number of cores."""
    monkeypatch.setattr("simsiam_eval.extraction.blocks._MAX_CONCURRENT_IMAGES", 6)
    lock, thread_counts = threading.Lock(), []

    def compute(block):
        assert lock.acquire(blocking=False)  # no other block is computed now
        thread_counts.append(torch.get_num_threads())
        time.sleep(0.005)
        lock.release()

    list(map_blocks(blocks_of(), compute))
    assert thread_counts == [threads] * 10


def test_error_of_the_source_is_raised_after_the_blocks_before_it():
    results = map_blocks(blocks_of(FailingSource), lambda block: block)
    assert first_rows(next(results) for _ in range(4)) == [0, 4, 8, 12]
    with pytest.raises(DataError, match="share is gone"):
        next(results)


def test_error_of_the_computation_is_raised_after_the_blocks_before_it():
    def compute(block):
        if block.rows.start == 8:
            raise RuntimeError("out of memory")
        return block

    results = map_blocks(blocks_of(), compute)
    assert first_rows(next(results) for _ in range(2)) == [0, 4]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(results)


def test_closing_early_stops_the_computation(threads):
    computed = []
    results = map_blocks(blocks_of(), lambda block: computed.append(block))
    next(results)
    results.close()
    assert len(computed) <= 4 * threads + 1


def test_empty_source_has_no_results():
    assert list(map_blocks(blocks_of(rows=0), lambda block: block)) == []


def test_no_block_is_started_after_closing(threads):
    started, first_done, release = [], threading.Event(), threading.Event()

    def compute(block):
        if first_done.is_set():  # the blocks after the first run until `close` has been called
            started.append(block.rows.start)
            release.wait(timeout=30)
        elif block.rows.start == 0:
            first_done.set()
        return block

    results = map_blocks(blocks_of(rows=400), compute)
    next(results)
    timer = threading.Timer(0.3, release.set)
    timer.start()
    results.close()
    timer.join()
    assert len(started) <= threads
