"""Log lines: digests with the archive's key, nothing of other libraries or exceptions, JSON that parses."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.archive import tag
from dicom_node.cli import main
from dicom_node.errors import SightlineError
from dicom_node.log_lines import KEY_FILE, LineFormatter, archive_key, keyed_digest

KEY = b"k" * 32
UID = "1.2.840.99.7"


def line(message: object, *args: object, name: str = "dicom_node.x", as_json: bool = False) -> str:
    record = logging.LogRecord(name, logging.INFO, "x.py", 7, message, args, None)
    return LineFormatter(KEY, as_json=as_json).format(record)


def test_a_tag_is_a_keyed_digest_in_a_line_and_nothing_elsewhere() -> None:
    digest = keyed_digest(KEY, UID)
    assert f"study={digest} n=2" in line("study read study=%s n=%d", tag(UID), 2)
    assert digest != keyed_digest(b"K" * 32, UID)
    assert UID not in f"{tag(UID)}"


def test_json_has_the_pairs_as_members() -> None:
    document = json.loads(
        line(
            "died role=%s exit=%s restart_in=%.0fs study=%s reason=%s",
            *("reader", -9, 4.2, tag(UID), "out of memory"),
            as_json=True,
        )
    )
    del document["time"]
    assert document == {
        "level": "INFO",
        "logger": "dicom_node.x",
        "event": "died",
        "role": "reader",
        "exit": -9,
        "restart_in": "4s",
        "study": keyed_digest(KEY, UID),
        "reason": "out of memory",
    }


def test_json_keeps_words_between_the_pairs() -> None:
    document = json.loads(
        line("result %s status=0x%04X url=%s/x ms=%.1f", "dead", 0xA700, "http://h", 2.26, as_json=True)
    )
    assert document["ms"] == 2.3
    assert (document["event"], document["status"], document["url"]) == ("result dead", "0xA700", "http://h/x")


@pytest.mark.parametrize("as_json", [False, True])
def test_other_libraries_and_exceptions_show_their_place_only(as_json: bool) -> None:
    try:
        raise ValueError("Doe^Jane is no number")
    except ValueError:
        record = logging.LogRecord("dicom_node.x", logging.ERROR, "x.py", 7, "failed", (), sys.exc_info())
    text = LineFormatter(KEY, as_json=as_json).format(record)
    assert "ValueError at test_log_lines.py" in text
    assert "Doe" not in text
    assert "Doe" not in line("value %s", "Doe^Jane", name="pydicom", as_json=as_json)
    assert "x.py:7" in line(ValueError("Doe^Jane"), name="pynetdicom.events", as_json=as_json)


def test_a_mistake_in_a_format_shows_no_value() -> None:
    assert "Doe" not in line("n=%d", "Doe^Jane")
    assert "Doe" not in line("n=%d", "Doe^Jane", as_json=True)
    assert "Doe" not in line("n=%s m=%s", "Doe^Jane", as_json=True)


@given(st.text(max_size=60), st.booleans())
def test_whatever_a_value_holds_it_stays_one_line(value: str, as_json: bool) -> None:
    text = line("refused reason=%s", value, as_json=as_json)
    assert len(text.splitlines()) == 1
    if as_json:
        assert json.loads(text)["reason"] == value


def test_the_key_is_drawn_once_and_for_its_owner_only(tmp_path: Path) -> None:
    key = archive_key(tmp_path / "archive")
    file = tmp_path / "archive" / KEY_FILE
    assert (len(key), file.stat().st_mode & 0o777) == (32, 0o600)
    assert archive_key(tmp_path / "archive") == key
    assert archive_key(tmp_path / "other") != key
    assert [path.name for path in file.parent.iterdir()] == [KEY_FILE]


def test_the_command_line_says_what_stands_for_a_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "node.toml"
    config.write_text('archive = "archive"\n')
    assert main(["tag", f"{UID} ", "--config", str(config)]) == 0
    assert capsys.readouterr().out == keyed_digest(archive_key(tmp_path / "archive"), UID) + "\n"


@pytest.mark.parametrize("content", ["", "zz", "00" * 31])
def test_a_damaged_key_is_an_error_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / KEY_FILE).write_text(content)
    with pytest.raises(SightlineError, match="delete it"):
        archive_key(tmp_path)
