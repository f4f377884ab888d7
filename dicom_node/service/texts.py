"""Texts as questions: the last ones kept, those that are asked at the same time made together.

Not a queue with a delay: whoever comes first is served at once, and what came meanwhile is the next batch.
Texts together cost the text tower less than one after another, so that many clients do not wait for one
another in turn; and only one thread uses the tower at a time, which a `Reader` asks for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core_model.question import Question
from dicom_node.service.errors import ApiError

MAX_TEXTS = 256
MAX_BATCH = 16

MakeAll = Callable[[Sequence[str]], Sequence[Question]]


@dataclass
class _Wish:
    """A text that somebody waits for, and what became of it."""

    text: str
    question: Question | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.question is not None or self.error is not None


class TextCache:
    """The last questions: a client asks for the hits and the heat map of one text.

    Parameters
    ----------
    make_all: makes a question of each of some texts; raises ValueError where one holds nothing to look for.
    """

    def __init__(self, make_all: MakeAll) -> None:
        self._make_all = make_all
        self._kept: OrderedDict[str, Question] = OrderedDict()
        self._waiting: list[_Wish] = []
        self._lock = threading.Lock()
        self._tower = threading.Lock()

    def get(self, text: str) -> Question:
        """The question that a text is.

        Raises
        ------
        ApiError: 422, there is nothing in the text to look for.
        """
        wish = _Wish(text)
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
            self._waiting.append(wish)
        while not wish.over:
            with self._tower:
                if not wish.over:  # else another thread's batch had it
                    self._serve_waiting()
        if wish.question is None:
            if isinstance(wish.error, ValueError):
                cure = "name what to find"
                raise ApiError(422, "body.text: there is nothing in it to look for", cure) from None
            raise RuntimeError("the text could not be made a question") from wish.error
        return wish.question

    def _serve_waiting(self) -> None:
        """Make questions of the texts that waited longest, at most `MAX_BATCH`. Holds the tower."""
        with self._lock:
            wishes, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        texts = list(dict.fromkeys(wish.text for wish in wishes))
        made = self._made(texts)
        for wish in wishes:
            result = made[wish.text]
            if isinstance(result, Exception):
                wish.error = result
            else:
                wish.question = result
        with self._lock:
            self._kept |= {t: e for t, e in made.items() if not isinstance(e, Exception)}
            while len(self._kept) > MAX_TEXTS:
                self._kept.popitem(last=False)

    def _made(self, texts: list[str]) -> dict[str, Question | Exception]:
        """What each text gives: one of another client's that is no question spoils no other."""
        try:
            return dict(zip(texts, self._make_all(texts), strict=True))
        except Exception as error:  # every waiting thread must be told
            if len(texts) == 1:
                return {texts[0]: error}
        return {text: self._made([text])[text] for text in texts}
