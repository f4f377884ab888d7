"""Runs the tests that need Slicer's libraries, each file in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.peers import require_module
from tests.slicer.conftest import HERE, OWN_PROCESS

FILES = sorted(path.name for path in OWN_PROCESS.glob("test_*.py"))


def test_there_are_files_to_run():
    assert FILES


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_in_its_own_process(name):
    for module in ("slicer", "PySide6", "PIL"):
        require_module(module, extra="slicer")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(OWN_PROCESS / name)]
    done = subprocess.run(
        command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
