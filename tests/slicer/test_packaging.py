"""The extension's CMake files, read by cmake with a stub of Slicer: no file is absent, none forgotten."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.peers import require

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).resolve().parent / "cmake_stub"
MODULE = "slicer_extension/Sightline"


def configure(source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    command = [require("cmake"), "-S", str(source), "-B", str(build), f"-DSlicer_DIR={STUB}"]
    command.append("-DBUILD_TESTING=ON")
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def extension(tmp_path):
    """A copy of what belongs to the extension."""
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "slicer_extension", copy / "slicer_extension", ignore=ignored)
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    return copy


def test_the_extension_is_complete(extension, tmp_path):
    done = configure(extension, tmp_path / "build")
    assert done.returncode == 0, done.stderr
    assert "module Sightline is complete" in done.stdout


@pytest.mark.parametrize(
    "name",
    ["SightlineLib/client.py", "Resources/UI/Sightline.ui", "Resources/Icons/Sightline.png", "Sightline.py"],
)
def test_a_file_that_is_listed_but_absent_fails(extension, tmp_path, name):
    (extension / MODULE / name).unlink()
    done = configure(extension, tmp_path / "build")
    assert done.returncode != 0
    assert f"listed but absent: {name}" in done.stderr


@pytest.mark.parametrize("name", ["SightlineLib/forgotten.py", "Resources/Icons/forgotten.png"])
def test_a_file_that_is_present_but_not_listed_fails(extension, tmp_path, name):
    (extension / MODULE / name).write_text("", encoding="utf-8")
    done = configure(extension, tmp_path / "build")
    assert done.returncode != 0
    assert f"present but not listed: {name}" in done.stderr


def test_missing_metadata_fails(extension, tmp_path):
    root = extension / "CMakeLists.txt"
    text = re.sub(r"set\(EXTENSION_ICONURL .*\)\n", "", root.read_text(encoding="utf-8"))
    root.write_text(text, encoding="utf-8")
    done = configure(extension, tmp_path / "build")
    assert done.returncode != 0
    assert "EXTENSION_ICONURL is not set" in done.stderr


def test_the_catalog_entry_names_the_project():
    entry = json.loads((ROOT / "slicer_extension" / "Sightline.json").read_text(encoding="utf-8"))
    assert set(entry) == {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }
    root = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(Sightline " in root
    assert entry["build_dependencies"] == []
    assert f'EXTENSION_CATEGORY "{entry["category"]}"' in root
