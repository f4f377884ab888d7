"""Texts that are asked together are embedded together, and one that says nothing spoils no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from dicom_node.service.errors import ApiError
from dicom_node.service.texts import MAX_BATCH, MAX_TEXTS, TextCache


class Tower:
    """Embeds a text as its length; slow, and refuses to be used by two threads at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self._busy = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        assert self._busy.acquire(blocking=False), "used by two threads"
        try:
            self.batches.append(len(texts))
            time.sleep(0.02)
            if "" in texts:
                raise ValueError("text is empty")
            return np.array([[len(text)] for text in texts], dtype=np.float32)
        finally:
            self._busy.release()


def test_many_threads_share_batches_and_each_gets_its_own() -> None:
    """While the first text is embedded all others arrive: they are served in as few batches as can be."""
    tower, everybody_waits = Tower(), threading.Event()

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        assert everybody_waits.wait(60)
        return tower(texts)

    cache = TextCache(embed)
    texts = ["x" * n for n in range(1, 81)]
    with ThreadPoolExecutor(len(texts)) as pool:
        asked = [pool.submit(cache.get, text) for text in texts]
        deadline = time.monotonic() + 60
        while len(cache._waiting) < len(texts) - 1:  # the first is with the tower
            assert time.monotonic() < deadline
            time.sleep(0.01)
        everybody_waits.set()
        found = [each.result() for each in asked]
    assert [float(each[0]) for each in found] == [len(text) for text in texts]
    assert tower.batches == [1, *[MAX_BATCH] * 4, len(texts) - 1 - 4 * MAX_BATCH]
    before = len(tower.batches)
    cache.get(texts[3])
    assert len(tower.batches) == before


def test_a_text_that_says_nothing_spoils_no_other() -> None:
    cache = TextCache(Tower())

    def ask(text: str) -> float | int:
        try:
            return float(cache.get(text)[0])
        except ApiError as error:
            return error.status_code

    texts = ["a", "", "bb", "", "ccc"] * 4
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, texts))
    assert found == [len(text) or 422 for text in texts]


def test_any_other_failure_is_told_to_all_that_wait() -> None:
    def broken(_texts: Sequence[str]) -> npt.NDArray[np.float32]:
        raise OSError("no memory")

    with pytest.raises(RuntimeError, match="could not be made a question"):
        TextCache(broken).get("liver")


def test_only_the_last_texts_are_kept() -> None:
    cache = TextCache(lambda texts: np.array([[len(text)] for text in texts], dtype=np.float32))
    for n in range(MAX_TEXTS + 10):
        cache.get("y" * (n + 1))
    assert len(cache._kept) == MAX_TEXTS
