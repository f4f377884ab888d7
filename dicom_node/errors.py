"""The one exception that a person is meant to read.

Not for programming mistakes: those keep their own type and their traceback.
"""

from __future__ import annotations


class SightlineError(Exception):
    """Something outside of the program is wrong, and the message says what and how to cure it.

    Parameters
    ----------
    message: names the thing, its value and the cure. The first line stands alone; further
        lines may list particulars. Never holds patient identity.

    Notes
    -----
    The command line prints the message and exits with 2; every other exception is a defect
    and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
