"""Records of the last windows, to train on many patients at once.

One window shows one patient: trained on it alone, every text follows what the last patient had.
What the records are is said by `training.lesion_voxels`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch


class Records:
    """Base of frozen dataclasses whose fields are tensors with one first axis, which counts records."""

    def __len__(self) -> int:
        return len(getattr(self, _names(type(self))[0]))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The same with every tensor changed."""
        return type(self)(**{name: change(getattr(self, name)) for name in _names(type(self))})

    def at(self, index: torch.Tensor) -> Self:
        """Those of (K,) indices."""
        return self.map(lambda t: t[index])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All records of several."""
        return cls(**{name: torch.cat([getattr(p, name) for p in parts]) for name in _names(cls)})


def _names(kind: Any) -> list[str]:
    return [f.name for f in fields(kind)]


R = TypeVar("R", bound=Records)


class WindowMemory(Generic[R]):
    """Records of windows, in half precision.

    Parameters
    ----------
    kind: the records' class.
    size: windows held; the oldest go first.
    per_draw: windows that are drawn from at a time.
    """

    def __init__(self, kind: type[R], size: int, per_draw: int = 64) -> None:
        self._kind, self._per_draw = kind, per_draw
        self._windows: deque[R] = deque(maxlen=size)

    def add(self, windows: Sequence[R]) -> None:
        """Take windows in; one without records is left out."""
        for one in windows:
            if len(one):
                self._windows.append(one.map(lambda t: t.half() if t.is_floating_point() else t))

    def draw(self, rng: np.random.Generator, n: int) -> R:
        """About `n` records, the same number of each of the drawn windows, where they have so many.

        Raises
        ------
        ValueError: if nothing is held yet.
        """
        if not self._windows:
            raise ValueError("the memory holds no records; add some first")
        chosen = rng.permutation(len(self._windows))[: self._per_draw]
        each = -(-n // len(chosen))
        parts = []
        for w in chosen:
            held = self._windows[w]
            drawn = held.at(torch.from_numpy(rng.permutation(len(held))[:each]))
            # Single precision first: under bfloat16 autocast on a CPU halves cannot be joined.
            parts.append(drawn.map(lambda t: t.float() if t.is_floating_point() else t))
        return self._kind.joined(parts)

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """For `torch.save`."""
        return {name: [getattr(w, name) for w in self._windows] for name in _names(self._kind)}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """What `state_dict` gave."""
        self._windows.clear()
        for tensors in zip(*(state[name] for name in _names(self._kind)), strict=True):
            self._windows.append(self._kind(*tensors))


__all__ = ["Records", "WindowMemory"]
