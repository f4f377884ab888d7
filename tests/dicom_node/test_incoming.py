"""What is read of a data set while it is received agrees with pydicom, and the file is DICOM."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.incoming import HeaderUids, IncomingFile, UnreadableError, header_uids

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
UIDS = st.from_regex(r"[1-9]{1,5}(\.[1-9]{1,5}){1,6}", fullmatch=True)


def encoded(dataset: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


@given(st.lists(UIDS, min_size=4, max_size=4), st.sampled_from(SYNTAXES), st.booleans(), st.booleans())
def test_the_uids_are_pydicoms(uids: list[str], syntax: str, undefined: bool, deep: bool) -> None:
    dataset, reference = Dataset(), Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids
    reference.ReferencedSOPInstanceUID, reference.StudyInstanceUID = "1.9", "1.8"
    if deep:
        reference.ReferencedSeriesSequence = Sequence([Dataset()])
    dataset.ReferencedStudySequence = Sequence([reference, reference])
    dataset["ReferencedStudySequence"].is_undefined_length = undefined
    reference.is_undefined_length_sequence_item = undefined
    dataset.PatientName, dataset.SeriesDescription, dataset.Rows = "Nobody", "x", 1
    data = encoded(dataset, syntax)
    assert header_uids(io.BytesIO(data), len(data), syntax) == HeaderUids(*uids)


@given(st.binary(max_size=300), st.sampled_from(SYNTAXES))
def test_whatever_comes_is_read_or_refused(data: bytes, syntax: str) -> None:
    try:
        header = header_uids(io.BytesIO(data), len(data), syntax)
    except UnreadableError:
        return
    assert all(isinstance(uid, str) for uid in vars(header).values())


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x00\x20\x00DA\x00\x00" * 150_000,
        (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 4000,
        b"\x08\x00\x05\x00UT\0\0\xf0\xff\xff\xff",
    ],
    ids=["too many elements", "nested too deep", "longer than the data"],
)
def test_a_header_without_end_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        header_uids(io.BytesIO(data), len(data), ExplicitVRLittleEndian)


def test_the_file_is_what_pydicom_reads_and_a_discarded_one_is_gone(tmp_path: Path) -> None:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID, image.PatientName = (
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.34",
        "Nobody",
    )
    data = encoded(image, ExplicitVRLittleEndian)
    file = IncomingFile(tmp_path, image.SOPClassUID, image.SOPInstanceUID, ExplicitVRLittleEndian)
    file.write(memoryview(data[:10]))
    file.write(memoryview(data[10:]))
    file.sync()
    read = pydicom.dcmread(file.path)
    assert read == image
    assert read.file_meta.MediaStorageSOPInstanceUID == "1.2.34"
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert read.file_meta.FileMetaInformationGroupLength == file.size - len(data) - 144
    file.discard()
    assert list(tmp_path.iterdir()) == []
