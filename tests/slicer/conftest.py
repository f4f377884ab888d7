"""Keeps what needs Slicer's libraries out of the process that runs the other tests.

``import slicer`` brings VTK and Qt, and the stand-ins change Qt's classes for chosen modules; none
of it belongs beside torch and matplotlib. ``test_own_process.py`` runs the files of ``in_slicer/``
in a process each; named on the command line they are ordinary tests.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
OWN_PROCESS = HERE / "in_slicer"
TOOLS = HERE / "harness"


def pytest_ignore_collect(collection_path, config):
    if collection_path.is_relative_to(TOOLS):
        return True
    if not collection_path.is_relative_to(OWN_PROCESS):
        return None
    named = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    return not any(path.is_relative_to(OWN_PROCESS) for path in named)
