import os
import subprocess
import sys
import time

import pytest

from simsiam_eval.files.lock import lock_and_keep, unlock_and_close


def test_file_can_be_locked_only_once(tmp_path):
    first, second = (os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2))
    lock_and_keep(first)
    with pytest.raises(BlockingIOError):
        lock_and_keep(second)
    unlock_and_close(first)
    lock_and_keep(second)
    unlock_and_close(second)


def test_child_of_a_killed_process_does_not_keep_the_lock(tmp_path):
    path = tmp_path / "file"
    code = (
        "import os, sys, time\n"
        "from simsiam_eval.files.lock import lock_and_keep\n"
        f"descriptor = os.open({str(path)!r}, os.O_RDWR | os.O_CREAT)\n"
        "lock_and_keep(descriptor)\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    descriptor = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            lock_and_keep(descriptor)
        holder.kill()
        holder.wait()
        time.sleep(0.1)
        os.kill(child, 0)  # the child is alive
        lock_and_keep(descriptor)
    finally:
        os.kill(child, 9)
        unlock_and_close(descriptor)
