"""Errors in the words that a log may hold."""

from __future__ import annotations

import traceback
from pathlib import Path

from dicom_node.errors import SightlineError


def in_words(error: BaseException) -> str:
    """An error for the log: ours by its message, others by kind and place.

    The text of other errors may quote values of a data set, and so a patient's name.
    """
    if isinstance(error, SightlineError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
