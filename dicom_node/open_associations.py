"""How many associations are open and from where, counted over all receiver processes of one port.

Shared memory without a lock: every process writes to its own slots and reads all. What a killed process
leaves in its slots is cleared by who starts it again. Two processes that let someone in at the same
instant may be one over the limit together; that is accepted.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import MutableSequence
from multiprocessing.context import BaseContext

from dicom_node.config import Config

Slots = MutableSequence[int]


def make_slots(config: Config, context: BaseContext) -> Slots:
    """Memory for the counts of one node, to be passed to the processes that `context` starts."""
    slots: Slots = context.RawArray("Q", config.receiver.processes * config.maximum_associations)
    return slots


class OpenAssociations:
    """The counts as one process sees them. Safe to share between its threads.

    Parameters
    ----------
    config: `Config.maximum_associations` and `ReceiverSettings.maximum_per_address`.
    slots: of `make_slots`.
    process: number of this process, from 0.
    """

    def __init__(self, config: Config, slots: Slots, process: int = 0) -> None:
        self._config = config
        self._slots = slots
        self._own = range(process * config.maximum_associations, (process + 1) * config.maximum_associations)
        self._lock = threading.Lock()

    def enter(self, address: str) -> int | None:
        """A place for an association with `address`, or None where there are too many."""
        mark = int.from_bytes(hashlib.sha256(address.encode()).digest()[:8], "little") | 1
        with self._lock:
            everyone = [slot for slot in self._slots if slot]
            if len(everyone) >= self._config.maximum_associations:
                return None
            if everyone.count(mark) >= self._config.receiver.maximum_per_address:
                return None
            place = next(n for n in self._own if not self._slots[n])
            self._slots[place] = mark
            return place

    def leave(self, place: int) -> None:
        """The association in a place is over."""
        self._slots[place] = 0

    def clear(self) -> None:
        """None of this process is open: it starts (again)."""
        for n in self._own:
            self._slots[n] = 0

    def others_have_fewer(self) -> bool:
        """Whether another process has fewer associations than this one."""
        size = len(self._own)
        slots = list(self._slots)
        counts = [sum(map(bool, slots[n : n + size])) for n in range(0, len(slots), size)]
        return min(counts) < counts[self._own.start // size]
