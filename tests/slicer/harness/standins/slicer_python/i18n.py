"""Stand-in of ``slicer.i18n``: the source text is its own translation."""

from __future__ import annotations


def tr(text: str) -> str:
    """The text in the language of the user, here as it was written."""
    return text


def translate(context: str, text: str) -> str:
    """As `tr`, for a text that another context of Slicer has translated."""
    return text
