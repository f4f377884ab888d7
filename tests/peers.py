"""The foreign programs and libraries that tests talk to: DCMTK, dicom3tools, dcmqi, Orthanc, Slicer's.

Not a wrapper round them: it only says where they are, or why a test cannot run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def require(program: str) -> str:
    """Path of a program that a test needs.

    The folder of the Python interpreter is searched too, because dcmqi installs there.

    Raises
    ------
    pytest.fail.Exception: if it is missing and the environment says ``CI=true``.
    pytest.skip.Exception: if it is missing elsewhere.
    """
    beside_python = str(Path(sys.executable).parent)
    path = shutil.which(program) or shutil.which(program, path=beside_python)
    if path is None:
        missing(f"{program} is not installed (see .ci/run for the packages that the tests need)")
    return path


def require_module(name: str, *, extra: str) -> None:
    """See that a Python package of an extra of ``setup.cfg`` is installed, without importing it.

    Raises
    ------
    pytest.fail.Exception: if it is missing and the environment says ``CI=true``.
    pytest.skip.Exception: if it is missing elsewhere.
    """
    if importlib.util.find_spec(name) is None:
        missing(f"Python package {name} is not installed; pip install -e '.[{extra}]' brings it")


def missing(reason: str) -> NoReturn:
    """Fail with ``CI=true``, skip elsewhere, because a peer that a test needs is not there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def shared_data(*parts: str) -> Path:
    """A file or folder of the shared test input.

    Raises
    ------
    pytest.skip.Exception: if the input is not on this machine.
    """
    root = os.environ.get("SIGHTLINE_TEST_DATA")
    folder = Path(root) if root else Path(__file__).resolve().parents[2] / "shared" / "data"
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"test input {'/'.join(parts)} is neither under ../shared/data nor $SIGHTLINE_TEST_DATA")
    return path
