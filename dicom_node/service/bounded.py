"""A cache that cannot grow without bound, for what many requests share: each thing is made once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Bounded(Generic[V]):
    """What was asked for lately, the least recently asked dropped first. Safe to share between threads.

    Two that ask for one thing at once make it once.

    Parameters
    ----------
    most: weight of everything together; what alone is heavier is handed out and not kept.
    weight: of one thing, for example its bytes; each counts as 1 by default.
    """

    def __init__(self, most: int, weight: Callable[[V], int] = lambda _: 1) -> None:
        self._most = most
        self._weigh = weight
        self._kept: OrderedDict[str, tuple[V, int]] = OrderedDict()
        self._gates: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self.weight = 0

    def get(self, key: str, make: Callable[[], V]) -> V:
        """The thing called `key`; raises what `make` raises."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if key in self._kept:
                    return self._kept[key][0]
            try:
                made = make()
            finally:
                with self._lock:
                    self._gates.pop(key, None)
            self._keep(key, made)
        return made

    def _keep(self, key: str, made: V) -> None:
        weight = self._weigh(made)
        if weight > self._most:
            return
        with self._lock:
            _, before = self._kept.pop(key, (None, 0))
            self._kept[key] = made, weight
            self.weight += weight - before
            while self.weight > self._most:
                _, (_, dropped) = self._kept.popitem(last=False)
                self.weight -= dropped
