"""Promotion: a checkpoint whose verdict allows it becomes the one that the node uses, and back.

Not the comparison behind the verdict (`core_model.verdict`; whoever trains makes it). A checkpoint is copied
first, then everything is checked on the copy, then the copy gets its name, and only then is the pointer
replaced: a crash anywhere leaves the old one in use. Running processes look at the pointer themselves.
"""

from __future__ import annotations

import getpass
import os
import shutil
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from core_model.verdict import FILE as VERDICT
from core_model.verdict import Judged, VerdictError, read_verdict
from dicom_node.audit import AuditTrail
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.group_commit import sync_folder
from dicom_node.model_store import (
    CONFIGURED,
    Pointer,
    folder_of,
    gone_back,
    locked,
    models_folder,
    read_pointer,
    write_pointer,
)

# Logs and states of training stay where they are.
FILES = ("model.safetensors", "config.json", "tokenizer.json", "card.json", VERDICT)


@dataclass(frozen=True)
class ModelLine:
    """One checkpoint that the node has.

    Attributes
    ----------
    judged: name, version, digest; None where its card cannot be read.
    folder: where it lies.
    state: ``in use``, ``before`` (``--back`` leads there, sooner or later), ``refused`` or ``kept``.
    is_configured: whether the configuration names it, and no promotion.
    since: seconds since the epoch that it is in use; None otherwise, and where nothing was ever promoted.
    reason: why it was refused.
    """

    judged: Judged | None
    folder: Path
    state: str
    is_configured: bool
    since: float | None = None
    reason: str | None = None


def promote(config: Config, checkpoint: Path) -> Judged:
    """Make a checkpoint the one that the node uses.

    Parameters
    ----------
    config: of the node.
    checkpoint: folder with the checkpoint and its verdict.

    Raises
    ------
    SightlineError: it is not whole, its verdict is missing, changed, against it, or about another checkpoint
        than the one in use; or it is in use already.
    """
    with locked(config):
        pointer = read_pointer(config)
        folder = models_folder(config)
        for left in folder.glob("*.part"):  # of a promotion that died
            shutil.rmtree(left, ignore_errors=True)
            left.unlink(missing_ok=True)
        part = folder / f"{uuid.uuid4().hex}.part"
        try:
            _copy(checkpoint, part)
            new = _checked(part, checkpoint, folder_of(config, pointer.digest))
            kept = folder / new.digest
            if _same(kept, part):
                (part / VERDICT).replace(kept / VERDICT)
                sync_folder(kept)
            else:
                part.rename(kept)
                sync_folder(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        write_pointer(
            config,
            replace(
                pointer,
                digest=new.digest,
                since=time.time(),
                before=(*pointer.before, pointer.digest),
                refused=tuple(one for one in pointer.refused if one.digest != new.digest),
            ),
        )
    AuditTrail(config).model_changed(getpass.getuser(), new.digest, "promoted")
    return new


def go_back(config: Config) -> ModelLine:
    """Use the checkpoint that was in use before; that one.

    Raises
    ------
    SightlineError: there is none before, or it is no longer whole.
    """
    with locked(config):
        pointer = read_pointer(config)
        if not pointer.before:
            raise SightlineError("there is nothing to go back to; the configured checkpoint is in use")
        pointer = gone_back(pointer, time.time())
        where = folder_of(config, pointer.digest)
        _load(where, where)
        write_pointer(config, pointer)
    line = in_use(config)
    digest = "unknown" if line.judged is None else line.judged.digest
    AuditTrail(config).model_changed(getpass.getuser(), digest, "gone back to")
    return line


def in_use(config: Config) -> ModelLine:
    """The checkpoint that the node uses now.

    Raises
    ------
    SightlineError: the pointer cannot be read.
    """
    pointer = read_pointer(config)
    return _line(config, pointer, pointer.digest)


def all_models(config: Config) -> list[ModelLine]:
    """All checkpoints that the node has: the one in use, those before from the newest, the others.

    Raises
    ------
    SightlineError: the pointer cannot be read.
    """
    pointer = read_pointer(config)
    kept = sorted(path.name for path in models_folder(config).glob("*") if len(path.name) == 64)
    order = dict.fromkeys([pointer.digest, *reversed(pointer.before), CONFIGURED, *kept])
    return [_line(config, pointer, digest) for digest in order]


def _line(config: Config, pointer: Pointer, digest: str) -> ModelLine:
    folder = folder_of(config, digest)
    try:
        judged = Judged.of(folder)
    except VerdictError:
        judged = None
    reasons = {one.digest: one.reason for one in pointer.refused}
    if digest == pointer.digest:
        since = pointer.since or None
        return ModelLine(judged, folder, "in use", digest == CONFIGURED, since)
    if digest in reasons:
        return ModelLine(judged, folder, "refused", False, reason=reasons[digest])
    return ModelLine(judged, folder, "before" if digest in pointer.before else "kept", digest == CONFIGURED)


def _copy(checkpoint: Path, part: Path) -> None:
    if not checkpoint.is_dir():
        raise SightlineError(f"checkpoint {checkpoint} is no folder; name one that training wrote")
    part.mkdir(mode=0o700)
    try:
        for name in FILES:
            if (checkpoint / name).is_file():  # what lacks is said by those who need it
                shutil.copyfile(checkpoint / name, part / name)
                _sync_file(part / name)
        sync_folder(part)
    except OSError as error:
        raise SightlineError(f"checkpoint {checkpoint} cannot be copied: {error.strerror}") from None


def _checked(part: Path, given: Path, base: Path) -> Judged:
    """The copy of `given`, if it is whole and its verdict allows it to follow `base`."""
    new = _load(part, given)
    try:
        used = Judged.of(base)
        if new.digest == used.digest:
            raise SightlineError(f"checkpoint {given} is in use already")
        verdict = read_verdict(part)
    except VerdictError as error:
        raise SightlineError(str(error).replace(str(part), str(given))) from None
    if verdict.base != used:
        raise SightlineError(
            f"checkpoint {given} was compared with {verdict.base.name} {verdict.base.version} "
            f"({verdict.base.digest[:12]}), the node uses {used.name} {used.version} ({used.digest[:12]}); "
            "compare it with that one"
        )
    if not verdict.promote:
        raise SightlineError(f"checkpoint {given} is not promoted: {'; '.join(verdict.objections)}")
    return new


def _load(folder: Path, named: Path) -> Judged:
    """What a checkpoint is, if it can be loaded."""
    from core_model.reader import Reader  # noqa: PLC0415  torch is half a gigabyte

    try:
        Reader.load(folder, "cpu")
        return Judged.of(folder)
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0].replace(str(folder), str(named))
        raise SightlineError(f"checkpoint {named} cannot be used: {first_line}") from None


def _same(kept: Path, part: Path) -> bool:
    """Whether a promoted folder of this digest is there already, with the same content."""
    if not kept.is_dir():
        return False
    names = [name for name in FILES if name != VERDICT]
    if any(not (kept / n).is_file() or (kept / n).read_bytes() != (part / n).read_bytes() for n in names):
        raise SightlineError(
            f"{kept} holds a checkpoint of this digest with another card or damaged; move that folder away"
        )
    return True


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
