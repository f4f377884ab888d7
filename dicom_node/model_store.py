"""Which checkpoint the node uses: ``models/`` in the archive, the same for all its processes and hosts.

``models/DIGEST/`` is a promoted checkpoint, ``models/in_use.json`` names the one in use, those before it, and
those that could not be loaded. Where nothing was promoted it is the configured checkpoint. Not the decision
what may be promoted (`dicom_node.promotion`) and not the loading (`dicom_node.model_in_use`). The pointer is
replaced by a rename, so that whoever looks sees the old or the new one, whole; changes are made under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from core_model.verdict import Judged, VerdictError
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.group_commit import sync_folder

FOLDER = "models"
POINTER = "in_use.json"
SCHEMA = "sightline-models/1"
CONFIGURED = ""  # stands in the pointer for the configured checkpoint
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Refusal:
    """A promoted checkpoint that a process could not load.

    Attributes
    ----------
    digest: of the checkpoint.
    reason: one line.
    at: seconds since the epoch.
    """

    digest: str
    reason: str
    at: float


@dataclass(frozen=True)
class Pointer:
    """The content of ``in_use.json``.

    Attributes
    ----------
    digest: of the promoted checkpoint in use; `CONFIGURED` where it is the configured one.
    since: when that began, seconds since the epoch; 0 where nothing was ever promoted.
    before: those in use before, oldest first.
    refused: those that could not be loaded, oldest first.
    """

    digest: str = CONFIGURED
    since: float = 0.0
    before: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()


def models_folder(config: Config) -> Path:
    """``models/`` of the node's archive; it may not be there."""
    return config.archive.absolute() / FOLDER


def read_pointer(config: Config) -> Pointer:
    """Which checkpoint is in use.

    Raises
    ------
    SightlineError: the pointer cannot be read.
    """
    path = models_folder(config) / POINTER
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(document["schema"])
        pointer = Pointer(
            str(document["digest"]),
            float(document["since"]),
            tuple(str(one) for one in document["before"]),
            tuple(Refusal(**one) for one in document["refused"]),
        )
    except FileNotFoundError:
        return Pointer()
    except (OSError, ValueError, KeyError, TypeError):
        raise SightlineError(
            f"{path} cannot be read; remove it to go back to the configured checkpoint"
        ) from None
    wrong = [one for one in (pointer.digest, *pointer.before) if one and not _DIGEST.fullmatch(one)]
    if wrong:
        raise SightlineError(f"{path} names {wrong[0]!r}, which is no digest; remove it")
    return pointer


def write_pointer(config: Config, pointer: Pointer) -> None:
    """Replace the pointer; on disk when this returns. Call under `locked`."""
    folder = models_folder(config)
    part = folder / f"{POINTER}.{uuid.uuid4().hex}.part"
    try:
        with part.open("x", encoding="utf-8") as file:
            json.dump({"schema": SCHEMA, **asdict(pointer)}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / POINTER)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(folder)


@contextlib.contextmanager
def locked(config: Config) -> Iterator[None]:
    """Hold the one lock under which `models/` is changed, on any host that shares it."""
    folder = models_folder(config)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SightlineError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def folder_of(config: Config, digest: str) -> Path:
    """Where the checkpoint of a pointer's digest lies; the shipped one where none is configured."""
    if digest:
        return models_folder(config) / digest
    if config.checkpoint is not None:
        return config.checkpoint
    from core_model.checkpoint import default_checkpoint  # noqa: PLC0415  torch is half a gigabyte

    return default_checkpoint()


def folder_by_model(config: Config, digest: str) -> Path | None:
    """The folder of the checkpoint that has this digest, whether in use or not; None where it is gone."""
    promoted = models_folder(config) / digest
    if _DIGEST.fullmatch(digest) and promoted.is_dir():
        return promoted
    configured = folder_of(config, CONFIGURED)
    try:
        return configured if Judged.of(configured).digest == digest else None
    except VerdictError:
        return None


def refuse(config: Config, digest: str, reason: str) -> Pointer:
    """Go back from a promoted checkpoint that cannot be loaded, if it is still in use; the pointer then."""
    with locked(config):
        pointer = read_pointer(config)
        if pointer.digest != digest or not digest:
            return pointer
        now = time.time()
        kept = tuple(one for one in pointer.refused if one.digest != digest)
        pointer = replace(
            gone_back(pointer, now), refused=(*kept, Refusal(digest, reason.splitlines()[0][:300], now))
        )
        write_pointer(config, pointer)
    return pointer


def gone_back(pointer: Pointer, now: float) -> Pointer:
    """The pointer with the one before in use; the configured checkpoint where there is none."""
    before = pointer.before
    return replace(pointer, digest=before[-1] if before else CONFIGURED, since=now, before=before[:-1])
