"""Open files and other objects that each process must create for itself."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class PerProcess(Generic[_Key, _Value]):
    """key -> make(key), made again in every process (after a fork, or when pickled); the last `capacity` are kept.

    Safe to share between threads. A value that is dropped lives on until its last user releases it.
    """

    def __init__(self, make: Callable[[_Key], _Value], capacity: int) -> None:
        self._make, self._capacity = make, capacity
        self._clear()

    def _clear(self) -> None:
        self._process, self._lock = os.getpid(), threading.RLock()
        self._values: OrderedDict[_Key, _Value] = OrderedDict()

    def __call__(self, key: _Key) -> _Value:
        if self._process != os.getpid():
            self._clear()  # also the lock: a thread of the parent process may have held it
        with self._lock:
            if key not in self._values:
                while len(self._values) >= self._capacity:
                    self._values.popitem(last=False)
                self._values[key] = self._make(key)
            self._values.move_to_end(key)
            return self._values[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_capacity": self._capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()
