"""The example configuration explains every key there is, with its default; the systemd unit is sound."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config import Config, load_config

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLE = DOCS / "node.example.toml"
# A key that is shown but not set: "# key = value"; prose behind "# " has no such start.
SHOWN = re.compile(r"# (?=(\w+ = \S|\[\[?[\w.]+\]\]?$))")


def keys(cls: Any, table: str = "") -> Iterator[tuple[str, str, dataclasses.Field[Any]]]:
    """(table, key, field) of every key that a configuration may have, by reflection."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key = field.metadata.get("key", field.name)
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):
            hint = next(h for h in typing.get_args(hint) if h is not types.NoneType)
        if typing.get_origin(hint) is tuple:
            hint = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{table}.{key}" if table else key)
        else:
            yield table, key, field


def explained(text: str) -> dict[tuple[str, str], str]:
    """(table, key) -> the comment above it, of all keys that are set or shown."""
    found, table, comment = {}, "", ""
    for line in text.splitlines():
        bare = SHOWN.sub("", line)
        if bare.startswith("["):
            table, comment = bare.strip("[]"), ""
        elif bare.startswith("# "):
            comment += bare[2:]
        elif match := re.match(r"(\w+) = ", bare):
            found[table, match[1]] = comment
            comment = ""
        else:
            comment = ""
    return found


def test_every_key_is_explained() -> None:
    there = explained(EXAMPLE.read_text("utf-8"))
    wanted = {(table, key) for table, key, _ in keys(Config)}
    assert set(there) == wanted, sorted(wanted ^ set(there))
    short = [name for name, comment in there.items() if len(comment) < 10]
    assert not short, f"without an explanation: {short}"


def test_what_is_set_is_the_default() -> None:
    table = tomllib.loads(EXAMPLE.read_text("utf-8"))
    for path, key, field in keys(Config):
        if path.split(".")[0] == "destination":
            continue  # shown as a whole: there is no default destination
        place = table
        for name in path.split(".") if path else []:
            place = place.get(name, {})
        if field.default is not dataclasses.MISSING and field.default is not None:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert place.get(key) == default, f"{path}.{key}"
        else:  # no default, or one that depends on the machine: only shown
            assert key not in place, f"{path}.{key}"


def test_it_loads_as_it_is_and_with_everything_shown(tmp_path: Path) -> None:
    assert load_config(EXAMPLE) == dataclasses.replace(Config(), archive=load_config(EXAMPLE).archive)
    text = "\n".join(SHOWN.sub("", line) for line in EXAMPLE.read_text("utf-8").splitlines())
    path = tmp_path / "node.toml"
    path.write_text(text, "utf-8")
    config = load_config(path)
    assert config.destinations[0].name == "pacs"
    assert config.retention.instance_days == 30


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unit, with a program that exists on this machine."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("systemd-analyze (Debian's systemd) is not installed")
        pytest.skip("systemd-analyze (Debian's systemd) is not installed")
    text = (DOCS / "sightline.service").read_text("utf-8")
    path = tmp_path_factory.mktemp("unit") / "sightline.service"
    path.write_text(text.replace("/opt/sightline/.venv/bin/sightline", sys.executable), "utf-8")
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    verified = analyze("verify", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_unit_is_hardened(unit: Path) -> None:
    """Exposure as systemd counts it, of 10; a unit without any hardening has 9.2 or more."""
    judged = analyze("security", "--offline=true", "--threshold=20", str(unit))
    assert judged.returncode == 0, judged.stdout
