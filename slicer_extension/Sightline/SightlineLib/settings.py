"""What the user has set once for all scenes: server, token, own name, questions asked before.

In Slicer's user settings, as plain text like all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import slicer
from SightlineLib.address import DEFAULT_ADDRESS

HISTORY_LENGTH = 50


class Settings:
    """Reads and writes under ``Sightline/`` of `slicer.app.userSettings()`."""

    @property
    def address(self) -> str:
        """Address of the server as the user typed it."""
        return self._text("ServerAddress") or DEFAULT_ADDRESS

    @address.setter
    def address(self, text: str) -> None:
        self._put("ServerAddress", text)

    @property
    def token(self) -> str:
        """Token of the server, empty for none."""
        return self._text("Token")

    @token.setter
    def token(self, text: str) -> None:
        self._put("Token", text)

    @property
    def observerName(self) -> str:
        """Name of the radiologist as in DICOM, ``Doe^Jane``."""
        return self._text("ObserverName")

    @observerName.setter
    def observerName(self, text: str) -> None:
        self._put("ObserverName", text)

    @property
    def history(self) -> list[str]:
        """Questions asked before, the newest first."""
        return [line for line in self._text("History").split("\n") if line]

    def remember(self, question: str) -> None:
        """Put a question on top of the history."""
        line = " ".join(question.split())
        others = [asked for asked in self.history if asked.lower() != line.lower()]
        self._put("History", "\n".join([line, *others][:HISTORY_LENGTH]))

    def forgetHistory(self) -> None:
        """Empty the history."""
        self._put("History", "")

    def _text(self, key: str) -> str:
        value = slicer.app.userSettings().value(f"Sightline/{key}")
        return "" if value is None else str(value)

    def _put(self, key: str, text: str) -> None:
        slicer.app.userSettings().setValue(f"Sightline/{key}", text)


def suggestions(history: Iterable[str], reading: dict | None) -> list[str]:
    """What the query line offers: questions asked before, then the findings and organs of the reading.

    >>> suggestions(["Hepatic cyst"], {
    ...     "findings": [{"abnormality": "liver_tumour"}, {"abnormality": "hepatic_cyst"}],
    ...     "organs": [{"name": "liver", "present": True}, {"name": "brain", "present": False}],
    ... })
    ['Hepatic cyst', 'liver tumour', 'liver']
    """
    offered = list(history)
    if reading is not None:
        offered += [words(finding["abnormality"]) for finding in reading["findings"]]
        offered += [words(organ["name"]) for organ in reading["organs"] if organ["present"]]
    seen: set[str] = set()
    return [text for text in offered if not (text.lower() in seen or seen.add(text.lower()))]


def words(name: str) -> str:
    """A name of the reading as a person reads it.

    >>> words("liver_tumour")
    'liver tumour'
    """
    return name.replace("_", " ")
