"""Values that are made once, by the first thread that needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class OnceEach(Generic[Key, Value]):
    """A value for each key, made once. Several threads may call `get`.

    If another thread is making the value, `get` waits for it. Values of different keys are made side by side. With
    `most`, at most that many values are kept: the least recently used one is dropped before a new one is made. A
    dropped value stays valid for those who still use it.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._values: dict[Key, Value] = {}
        self._making: dict[Key, threading.RLock] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __setitem__(self, key: Key, value: Value) -> None:
        """Keep `value` for `key`, so that none is made."""
        with self._lock:
            self._values[key] = value

    def keys(self) -> list[Key]:
        """The keys of the kept values, the most recently used last."""
        with self._lock:
            return list(self._values)

    def values(self) -> list[Value]:
        """The kept values, the most recently used last."""
        with self._lock:
            return list(self._values.values())

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`, made by `make` if it is not kept. An error of `make` is raised, and nothing is kept."""
        with self._lock:
            if key in self._values:
                return self._touch(key)
            making = self._making.setdefault(key, threading.RLock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._touch(key)
                while self._most is not None and self._values and len(self._values) >= self._most:
                    del self._values[next(iter(self._values))]
            value = make()
            with self._lock:
                self._values[key] = value
                self._making.pop(key, None)
        return value

    def _touch(self, key: Key) -> Value:
        self._values[key] = value = self._values.pop(key)
        return value
