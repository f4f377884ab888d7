"""Names of results that depend on their input only: result key, result UIDs, tracking UIDs.

Not a registry and not random: the same slices read by the same checkpoint with the same
settings give the same UIDs, so that a retry overwrites in the PACS and never multiplies
(design.md, decision 5).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable

from pydicom.uid import UID

from core_model.reading import ModelIdentity, OrganDrawing

# Drawn once at random (our choice). Changing it renames every result of every installation.
_NAMESPACE = uuid.UUID("5f0a6c1e-7c0d-4f0c-9d2b-8a1f3f5b7e21")


def result_key(sop_instance_uids: Iterable[str], checkpoint_digest: str, settings_digest: str) -> str:
    """The idempotency key of a reading.

    Parameters
    ----------
    sop_instance_uids: SOP Instance UIDs of the series that was read, in any order.
    checkpoint_digest: of what reads (`drawn_digest`).
    settings_digest: digest of every setting that changes a result.

    Returns
    -------
    64 hexadecimal digits (SHA-256).

    Raises
    ------
    ValueError: if there is no SOP Instance UID, or if one of them is empty.

    >>> result_key(["1.2", "1.3"], "c", "s") == result_key(["1.3", "1.2"], "c", "s")
    True
    """
    uids = sorted({str(uid) for uid in sop_instance_uids})
    if not uids or not uids[0]:
        raise ValueError(
            "sop_instance_uids holds no UID or an empty one; take them from the cleaned headers "
            "(dicom_node.results.headers), which fall back on the file meta information"
        )
    # JSON, so that no two different inputs run together into one byte string.
    text = json.dumps([uids, checkpoint_digest, settings_digest], separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def drawn_digest(model: ModelIdentity, organs_by: OrganDrawing | None) -> str:
    """The digest of what reads: the model's own, and with it that of another that draws the organs.

    >>> a, b = (ModelIdentity("a", "1", "aa"), ModelIdentity("b", "1", "bb"))
    >>> drawn_digest(a, None)
    'aa'
    >>> drawn_digest(a, OrganDrawing(b, "somebody", ("liver",))) == "aa"
    False
    """
    if organs_by is None:
        return model.digest
    text = json.dumps([model.digest, organs_by.model.version, organs_by.model.digest])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def derived_uid(*parts: str) -> UID:
    """A UID under 2.25 made from a name-based (SHA-1) UUID of `parts` (PS3.5 B.2, RFC 9562 5.5).

    >>> str(derived_uid("a", "b")) == str(derived_uid("a", "b")) != str(derived_uid("ab"))
    True
    """
    name = json.dumps(parts, separators=(",", ":"))
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, name).int}")


def result_uid(key: str, role: str) -> UID:
    """The UID of the part of a result that plays `role`, e.g. ``"organ-seg"`` or ``"lesion-1"``."""
    return derived_uid("result", key, role)


def lesion_tracking_uid(key: str, label: int) -> UID:
    """The tracking UID that a lesion has both in its SEG segment and in its SR group."""
    return result_uid(key, f"lesion-{label}")


def finding_tracking_uid(key: str, organ: str, abnormality: str) -> UID:
    """The tracking UID of the SR group of one organ and abnormality."""
    return result_uid(key, f"finding-{organ}-{abnormality}")
