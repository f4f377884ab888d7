"""What a report states: which abnormalities of the dictionary it says are there, and which are not.

The frozen sentence encoder tells which wording of the dictionary a sentence is nearest to, one for it or one
against it, as `core_model.question` does for what is asked. Looks at no scan; `core_model.report_match` does.
Our choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from core_model.abnormality import Abnormality
from core_model.anatomy import organs
from core_model.model import SightlineModel
from core_model.wordings import Wordings

_FOR = ("There is {}.", "{} is seen.")
_AGAINST = ("No {}.", "There is no {}.", "No evidence of {}.", "Negative for {}.", "{} is not seen.")
_NORMAL = ("{}", "Normal {}.", "The {} is normal.", "The {} is unremarkable.")
_THERE = re.compile(r"There (is|are) (?:an? )?")


@dataclass(frozen=True)
class Statement:
    """What a sentence states of an abnormality.

    Attributes
    ----------
    name: of the abnormality.
    present: whether it says that it is there; else it says that it is not.
    """

    name: str
    present: bool


def negated(wording: str) -> str:
    """What denies what a wording says, good enough to be near to sentences that do.

    >>> negated("There is a kidney stone."), negated("Nephrolithiasis.")
    ('There is no kidney stone.', 'No nephrolithiasis.')
    """
    there = _THERE.match(wording)
    if there:
        return f"There {there[1]} no {wording[there.end() :]}"
    return f"No {wording[0].lower()}{wording[1:]}"


class Statements:
    """Finds statements in sentences.

    Parameters
    ----------
    model: whose sentence encoder reads them.
    searched: abnormalities that are looked for.
    """

    def __init__(self, model: SightlineModel, searched: Sequence[Abnormality]) -> None:
        self._model = model
        self._searched = tuple(searched)

    def of(self, sentences: Sequence[str]) -> list[Statement | None]:
        """What each sentence states; None where it states nothing of what is looked for.

        Raises
        ------
        ValueError: if there is no sentence or one is blank.
        """
        with torch.inference_mode():
            found = self._wordings.nearest(self._model.text(sentences))
        return [one[0] if one else None for one in found]

    def of_report(self, sentences: Sequence[str]) -> dict[str, bool]:
        """Abnormality -> whether the report says that it is there; without those that it does not mention.

        One sentence that says so is enough.

        Raises
        ------
        ValueError: as `of`.
        """
        found: dict[str, bool] = {}
        for statement in self.of(sentences):
            if statement is not None:
                found[statement.name] = found.get(statement.name, False) or statement.present
        return found

    @cached_property
    def _wordings(self) -> Wordings[Statement | None]:
        """Wordings for and against what is searched; those of a healthy organ state nothing."""
        said: list[tuple[Statement | None, str]] = []
        for entry in self._searched:
            there = (entry.display, *entry.present, *(t.format(entry.display) for t in _FOR))
            denied = (negated(wording) for wording in entry.present)
            not_there = (*entry.absent, *(t.format(entry.display) for t in _AGAINST), *denied)
            said += [(Statement(entry.name, True), wording) for wording in there]
            said += [(Statement(entry.name, False), wording) for wording in not_there]
        said += [(None, t.format(organ.display)) for organ in organs() for t in _NORMAL]
        return Wordings(self._model.text, said)
