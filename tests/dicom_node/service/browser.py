"""Headless Chromium for the tests of the page: where it is, and everything that it did.

Not a driver (playwright is): it finds the browser, and keeps what must not happen.
"""

from __future__ import annotations

import os
import shutil
import sys

from tests.peers import require


def chromium_path() -> str:
    """Path of Chromium; see `tests.peers.require` for where it is missing."""
    return shutil.which("chromium-browser") or require("chromium")


def chromium_arguments() -> list[str]:
    """What Chromium needs as root, where it cannot have its own sandbox, and on machines without a GPU."""
    root = sys.platform.startswith("linux") and os.geteuid() == 0
    return ["--disable-gpu", *(["--no-sandbox"] if root else [])]
