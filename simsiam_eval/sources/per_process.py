"""Open files and the like, of which every process needs its own."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class PerProcess(Generic[_Key, _Value]):
    """key -> make(key), made again in every process (after a fork, or when pickled); the `most` last used are kept.

    Threads may share it. What falls out is closed when its last user lets go of it.
    """

    def __init__(self, make: Callable[[_Key], _Value], most: int) -> None:
        self._make, self._most = make, most
        self._start()

    def _start(self) -> None:
        self._process, self._lock = os.getpid(), threading.RLock()
        self._made: OrderedDict[_Key, _Value] = OrderedDict()

    def __call__(self, key: _Key) -> _Value:
        if self._process != os.getpid():
            self._start()  # the lock too: a thread that is not in this process may have held it
        with self._lock:
            if key not in self._made:
                while len(self._made) >= self._most:
                    self._made.popitem(last=False)
                self._made[key] = self._make(key)
            self._made.move_to_end(key)
            return self._made[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_most": self._most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()
