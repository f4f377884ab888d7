"""What a destination is handed and what it says: parcels, outcomes, and the meaning of its status.

Shared by the two ways of sending, `dicom_node.delivery_dimse` and `dicom_node.delivery_web`:
STOW-RS uses the status codes of C-STORE as failure reasons (PS3.18 table I.2-2).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

NATIVE = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
SUCCESS = 0x0000
# It is there already under this UID; result UIDs are a function of the input, so it is the same.
DUPLICATE = 0x0111


class UnreachableError(Exception):
    """A destination takes nothing at all at the moment; the message says why."""


@dataclass(frozen=True)
class Parcel:
    """One result that is due at one destination."""

    sop_instance_uid: str
    sop_class_uid: str
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt.

    Attributes
    ----------
    parcel: what was sent.
    status: C-STORE status or STOW-RS failure reason; None where the peer gave none.
    reason: why it is not stored, or what the peer warns of, in our words; None where all is well.
    comment: the peer's own words; never for a log, because they may name a patient.
    committable: whether the peer offers storage commitment.
    """

    parcel: Parcel
    status: int | None
    reason: str | None = None
    comment: str = ""
    committable: bool = False

    @property
    def stored(self) -> bool:
        """Whether the destination has the result now."""
        return self.status is not None and is_stored(self.status)


def is_stored(status: int) -> bool:
    """Whether a C-STORE status says that the peer has the instance (PS3.4 B.2.3, PS3.7 annex C).

    >>> [is_stored(status) for status in (0x0000, 0xB000, 0x0111, 0xA700, 0xC000, 0x0124)]
    [True, True, True, False, False, False]
    """
    return status in (SUCCESS, DUPLICATE) or code_to_category(status) == "Warning"


def in_words(status: int) -> str | None:
    """What a status says beyond plain success.

    >>> in_words(0), in_words(0xA702), in_words(0xC001)
    (None, '0xA702 Refused: Out of Resources', '0xC001 Cannot Understand')
    """
    if status == SUCCESS:
        return None
    _, text = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", ""))
    return f"0x{status:04X} {text}".strip()


def transfer_syntax(path: Path) -> str:
    """The transfer syntax of a DICOM file."""
    return str(pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID)


def unreadable(path: Path) -> str | None:
    """Why a file cannot be sent at all; None where it begins as a DICOM file does."""
    try:
        transfer_syntax(path)
    except Exception as error:  # whatever a parser makes of a damaged file
        return f"its file cannot be read: {type(error).__name__}"
    return None


def fitting(path: Path, accepted: Container[str]) -> FileDataset:
    """A result in a transfer syntax that a peer takes: as it is, or else its uncompressed twin.

    Parameters
    ----------
    path: of the result.
    accepted: transfer syntaxes that the peer takes; a native one of them is as good as another,
        because pynetdicom converts between those.

    Raises
    ------
    ValueError: it cannot be read or decoded. The message quotes nothing of it.
    """
    try:
        dataset = pydicom.dcmread(path)
        syntax = UID(dataset.file_meta.TransferSyntaxUID)
        if syntax.is_compressed and syntax not in accepted:
            # The same UID: decoded it is the same image, and only one of the two is ever kept.
            dataset.decompress(generate_instance_uid=False)
    except Exception as error:  # whatever a parser or decoder makes of a damaged file
        raise ValueError(f"the result cannot be sent: {type(error).__name__}") from error
    return dataset
