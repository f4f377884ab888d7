"""Log lines without patient identity: key=value text, or one JSON object per line.

Not what is logged, only how it looks. UIDs and AE titles are logged through
`dicom_node.archive.tag` and appear as a digest keyed with a secret of the archive, so that who
reads a log can follow a study and cannot tell whose it is by trying UIDs; ``sightline tag`` gives
the digest of a value to those who may read the archive. Other libraries' messages and the texts
of exceptions may quote a data set, so only their place in the source is shown.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.words import in_words

KEY_FILE = "log.key"
_OWN = ("dicom_node", "core_model")
# A conversion of a format string with the "key=" before it and what sticks to it, as in "restart_in=%.0fs".
_CONVERSION = re.compile(
    r"(?:(?P<key>\w+)=(?P<before>[^\s%]*))?(?P<spec>%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])(?(key)(?P<after>[^\s%]*))"
)
Fields = dict[str, Any]


@dataclass(frozen=True)
class Tag:
    """A value that a log line shows as its keyed digest. Anywhere else it shows nothing."""

    value: str

    def __str__(self) -> str:
        return "(hidden)"


def keyed_digest(key: bytes, value: str) -> str:
    """What stands for `value` in logs: 12 hexadecimal digits of its HMAC-SHA-256 (RFC 2104).

    >>> keyed_digest(b"k" * 32, "1.2.3")
    '4f4b5dbe0a41'
    """
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:12]


def archive_key(archive: Path) -> bytes:
    """The archive's secret, drawn at the first call and kept for its owner only.

    Whoever deletes ``log.key`` starts anew: older lines can then not be matched any more.

    Raises
    ------
    SightlineError: it cannot be written or read.
    """
    path = archive.absolute() / KEY_FILE
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = path.with_name(f"{KEY_FILE}.{secrets.token_hex(8)}.part")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, path)  # whole or not at all, and the first of several processes wins
            except FileExistsError:
                pass
            finally:
                part.unlink()
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a key"
        raise SightlineError(
            f"{path}: cannot be used ({reason}); make the archive writable, or delete it"
        ) from None
    if len(key) < 32:
        raise SightlineError(f"{path}: is shorter than 32 bytes; delete it, and a new one is drawn")
    return key


class LineFormatter(logging.Formatter):
    """Formats records as one line each.

    Parameters
    ----------
    key: for the digests of tags.
    as_json: JSON objects with ``time``, ``level``, ``logger``, ``event`` and the line's key=value
        pairs as members; otherwise text.
    """

    def __init__(self, key: bytes, *, as_json: bool = False) -> None:
        super().__init__()
        self._key = key
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        event, fields = self._parts(record)
        if record.exc_info and record.exc_info[1] is not None:
            fields = {**fields, "error": _place(record.exc_info[1])}
        if self._as_json:
            head = {"time": moment, "level": record.levelname, "logger": record.name, "event": event}
            return json.dumps({**head, **fields, **head})  # ASCII, so nothing can break the line
        pairs = "".join(f" {name}={value}" for name, value in fields.items())
        return _printable(f"{moment} {record.levelname} {record.name} {event}{pairs}")

    def _shown(self, record: logging.LogRecord) -> tuple[object, ...]:
        args = record.args if isinstance(record.args, tuple) else (record.args,)
        return tuple(keyed_digest(self._key, arg.value) if isinstance(arg, Tag) else arg for arg in args)

    def _parts(self, record: logging.LogRecord) -> tuple[str, Fields]:
        """The event in words, and key=value pairs that are to stand apart from it."""
        if record.name.split(".")[0] not in _OWN:
            return "message of a library", {"place": f"{record.filename}:{record.lineno}"}
        if not record.args:
            return str(record.msg), {}
        try:
            return self._split(record) if self._as_json else (str(record.msg) % self._shown(record), {})
        except (TypeError, ValueError, StopIteration):  # a defect of ours; logging would print the values
            return str(record.msg), {}

    def _split(self, record: logging.LogRecord) -> tuple[str, Fields]:
        """The event without its key=value pairs, and those, numbers as numbers."""
        values = iter(self._shown(record))
        fields: Fields = {}

        def take(found: re.Match[str]) -> str:
            value = next(values)
            if found["key"] is None:
                return str(found["spec"] % (value,))
            text = found["spec"] % (value,)
            if (
                not found["before"]
                and not found["after"]
                and isinstance(value, (bool, int, float, type(None)))
            ):
                # With as many digits as the text has: 52.6, and not 52.630175828933716.
                fields[found["key"]] = float(text) if isinstance(value, float) else value
            else:
                fields[found["key"]] = f"{found['before']}{text}{found['after']}"
            return ""

        event = _CONVERSION.sub(take, str(record.msg))
        return " ".join(event.split()), fields


def _place(error: BaseException) -> str:
    return in_words(error) if traceback.extract_tb(error.__traceback__) else type(error).__name__


def _printable(line: str) -> str:
    """Without line breaks and control characters: nothing from outside can forge a line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


def configure_logging(config: Config, log: Path | None = None) -> None:
    """Send this process's log lines, and what kills a thread, to one place.

    Parameters
    ----------
    config: level, format, and the archive that has the key.
    log: file that the lines are appended to; standard error by default.

    Raises
    ------
    SightlineError: the archive's key cannot be had.
    """
    key = archive_key(config.archive)
    handler = logging.StreamHandler(sys.stderr) if log is None else logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(LineFormatter(key, as_json=config.log_format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dicom_node").setLevel(config.log_level)
    # Python's own hooks print the exception's text, which may quote a data set.
    sys.excepthook = lambda _kind, error, _trace: _log_death("process", error)
    threading.excepthook = lambda died: _log_death("thread", died.exc_value)


def log_file() -> Path | None:
    """Where `configure_logging` has this process's lines go, for its own children."""
    handlers = logging.getLogger().handlers
    return next((Path(h.baseFilename) for h in handlers if isinstance(h, logging.FileHandler)), None)


def _log_death(what: str, error: BaseException | None) -> None:
    place = "unknown" if error is None else _place(error)
    logging.getLogger(__name__).critical("defect %s died error=%s", what, place)
