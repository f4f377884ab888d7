"""What stands for patients, studies and UIDs, and on which side of the split a patient is for ever.

Keyed digests (HMAC-SHA256): the same with the same key, meaningless without it. The key stays with the
archive, readable by its owner only, and goes nowhere else. Not an encryption: nothing can be turned back,
also not with the key, but by trying all patients one knows. Who loses the key loses the split: then held-out
patients of an earlier run may be learnt from.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID

KEY_FILE = "retraining.key"
KEY_BYTES = 32
HELD_OUT = 0.2  # share of the patients that is never learnt from; our choice


@dataclass(frozen=True, repr=False)
class Pseudonyms:
    """Names for what is learnt from. Has no ``repr`` of its key.

    Attributes
    ----------
    key: `KEY_BYTES` random bytes.
    """

    key: bytes

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """32 hexadecimal digits for a Patient ID (0010,0020) of an issuer (0010,0021).

        Raises
        ------
        ValueError: the Patient ID is empty; its studies could be on both sides of the split.
        """
        if not patient_id.strip():
            raise ValueError("the Patient ID is empty; a patient without one cannot be told from others")
        return self._digest("patient", patient_id.strip(), issuer.strip())[:32]

    def study(self, study_instance_uid: str) -> str:
        """32 hexadecimal digits for a study."""
        return self._digest("study", study_instance_uid.strip())[:32]

    def uid(self, uid: str) -> UID:
        """A UID under 2.25 (PS3.5 B.2); the same for the same one, so that references hold."""
        return UID(f"2.25.{int(self._digest('uid', uid.strip())[:32], 16)}")

    def is_held_out(self, patient: str) -> bool:
        """Whether a patient (of `patient`) is never learnt from.

        Depends on the key and this patient alone: whoever comes later moves nobody.
        """
        draw = int(self._digest("split", patient)[:16], 16) / 16**16
        return draw < HELD_OUT

    def _digest(self, *parts: str) -> str:
        return hmac.new(self.key, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


def key_of(archive: Path) -> Path:
    """Where the key of an archive lies unless a person keeps it elsewhere."""
    return archive / KEY_FILE


def open_pseudonyms(file: Path) -> Pseudonyms:
    """The pseudonyms of a key file, which is drawn where there is none yet.

    Raises
    ------
    ValueError: the file cannot be read or written, holds no key, or others may read it.
    """
    try:
        if not file.exists():
            _draw(file)
        if file.stat().st_mode & 0o077:
            raise ValueError(f"{file} may be read by others than its owner; chmod 600 it")
        key = _key(file.read_bytes())
    except OSError as error:
        raise ValueError(f"{file} cannot be used as key: {error.strerror}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"{file} holds no key of {KEY_BYTES} bytes in hexadecimal digits")
    return Pseudonyms(key)


def _key(text: bytes) -> bytes:
    """The key, or nothing where the text is none."""
    try:
        return bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        return b""


def _draw(file: Path) -> None:
    """Whole or not at all, and the first of several that draw at once."""
    part = file.with_name(f"{file.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, file)
    finally:
        part.unlink()
