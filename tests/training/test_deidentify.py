"""What training reads of DICOM holds no identity, whatever element it was in, and still fits together."""

from __future__ import annotations

import io
import string
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage, SegmentationStorage

from core_model.reading import ModelIdentity
from dicom_node.results.segmentation import lesion_segmentation
from tests.dicom_node.ct_series import ct_series, volume_of
from tests.dicom_node.readings import KEY, make_reading
from training.datasets.archive import volume_of as volume_read
from training.datasets.sample import UnusableSampleError
from training.retraining.deidentify import Deidentifier
from training.retraining.pseudonyms import HELD_OUT, Pseudonyms, open_pseudonyms
from training.retraining.reports import read_reports, said_of
from training.retraining.scrub import known_of, scrubbed

NAMES = Pseudonyms(b"k" * 32)
WORD, DATE, NUMBER = "ZZIDENT", "19430617", "2.25.987650123456789"
PLANTED = {
    **dict.fromkeys(("PN", "LO", "SH", "LT", "ST", "UT", "UC", "AE"), WORD),
    "DA": DATE,
    "DT": f"{DATE}101112",
    "TM": "101112.987654",
    "UI": NUMBER,
    "AS": "081Y",
    "UR": f"http://{WORD}.example",
}
NEEDED = {"SOPClassUID", "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"}


def plant(dataset: Dataset, depth: int = 1) -> None:
    """Identity in every element of those VRs, in private ones, and one level deeper."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in PLANTED and keyword and keyword not in NEEDED and tag >> 16 not in (0, 2):
            if vr == "UI" and keyword in dataset:
                continue  # references must still hold
            setattr(dataset, keyword, PLANTED[vr])
    block = dataset.private_block(0x0011, f"{WORD} private", create=True)
    block.add_new(1, "LO", WORD)
    block.add_new(2, "DA", DATE)
    if depth:
        item = Dataset()
        plant(item, depth - 1)
        dataset.RequestAttributesSequence = [item]
        dataset.ConceptNameCodeSequence = [item]
        for segment in dataset.get("SegmentSequence", []):
            label = segment.SegmentNumber
            plant(segment, 0)
            segment.SegmentNumber = label


def written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def assert_nobody(content: bytes) -> None:
    for mark in (WORD, WORD.lower(), DATE, "1943", NUMBER, "987654", "081Y"):
        assert mark.encode() not in content, mark
        assert mark.encode("utf-16-le") not in content, mark


def test_identity_in_every_element_of_an_image_is_gone() -> None:
    slices = ct_series()
    before = volume_of(slices)
    for image in slices:
        plant(image)
    cleaned = [Deidentifier(NAMES)(image) for image in slices]
    for image, given_ in zip(cleaned, slices, strict=True):
        content = written(image)
        assert_nobody(content)
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            assert str(given_[keyword].value).encode() not in content
        assert given_.PatientName == WORD, "what was given stays"
        assert image.SOPClassUID == CTImageStorage
        assert pydicom.uid.UID(image.SOPInstanceUID).is_valid
    assert len({i.SOPInstanceUID for i in cleaned}) == len(slices)
    assert len({i.SeriesInstanceUID for i in cleaned}) == 1
    np.testing.assert_array_equal(volume_read(cleaned).array, before.array)
    assert str(Deidentifier(Pseudonyms(b"l" * 32))(slices[0]).SOPInstanceUID) != cleaned[0].SOPInstanceUID


def test_identity_in_every_element_of_a_segmentation_is_gone_and_it_still_fits_its_images() -> None:
    slices = ct_series()
    reading = make_reading(volume_of(slices))
    assert isinstance(reading.model, ModelIdentity)
    made = lesion_segmentation(reading, slices, KEY)
    assert made is not None
    truth = made.get_pixels_by_source_instance([str(s.SOPInstanceUID) for s in slices])
    seg = pydicom.dcmread(io.BytesIO(written(made)))
    plant(seg)
    clean = Deidentifier(NAMES)
    found = clean(seg)
    assert found.SOPClassUID == SegmentationStorage
    assert_nobody(written(found))
    images = [clean(image) for image in slices]
    read = hd.seg.Segmentation.from_dataset(found, copy=False)
    pixels = read.get_pixels_by_source_instance([str(i.SOPInstanceUID) for i in images])
    np.testing.assert_array_equal(pixels, truth)
    kinds = [read.get_segment_description(n).segmented_property_type.value for n in read.segment_numbers]
    assert kinds == [
        made.get_segment_description(n).segmented_property_type.value for n in made.segment_numbers
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"ConversionType": "WSD"}, "secondary capture"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "neither a CT image nor a segmentation"),
    ],
)
def test_pixels_that_may_show_a_name_are_refused(change: dict[str, str], reason: str) -> None:
    image = ct_series()[0]
    for keyword, value in change.items():
        setattr(image, keyword, value)
    with pytest.raises(UnusableSampleError, match=reason):
        Deidentifier(NAMES)(image)


identifiers = st.text(string.ascii_letters + string.digits + "-/ ", min_size=1, max_size=20).filter(str.strip)


@given(st.sets(identifiers.map(str.strip), min_size=1, max_size=30), st.binary(min_size=32, max_size=32))
def test_a_patient_never_changes_sides_whoever_comes_later(ids: set[str], key: bytes) -> None:
    names = Pseudonyms(key)
    before = {i: names.is_held_out(names.patient(i)) for i in sorted(ids)[: len(ids) // 2]}
    again = Pseudonyms(key)
    after = {i: again.is_held_out(again.patient(f" {i} ")) for i in sorted(ids)}
    assert before.items() <= after.items()
    assert len({names.patient(i) for i in ids}) == len(ids)
    assert not any(i in names.patient(i) for i in ids if len(i) > 4)


def test_a_fifth_is_held_out_and_another_key_draws_another_fifth() -> None:
    def side(key: bytes) -> list[bool]:
        names = Pseudonyms(key)
        return [names.is_held_out(names.patient(f"P{n}")) for n in range(4000)]

    one, other = side(b"a" * 32), side(b"b" * 32)
    assert abs(np.mean(one) - HELD_OUT) < 0.03
    assert one != other
    with pytest.raises(ValueError, match="Patient ID is empty"):
        NAMES.patient("  ")
    assert "kkk" not in repr(NAMES)


def test_the_key_is_drawn_once_and_kept_from_others(tmp_path: Path) -> None:
    file = tmp_path / "key"
    first = open_pseudonyms(file)
    assert open_pseudonyms(file).patient("A") == first.patient("A")
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    file.chmod(0o644)
    with pytest.raises(ValueError, match="may be read by others"):
        open_pseudonyms(file)
    file.chmod(0o600)
    file.write_text("no key")
    with pytest.raises(ValueError, match="holds no key"):
        open_pseudonyms(file)


REPORT = (
    "CT of Jane Doe (MRN 00123456), born 17.06.1943, seen by Dr. A. Miller on March 3, 2021 at 10:45. "
    "Doe^Jane has a 12 mm nodule, series 3, image 204 (3/204). No pleural effusion. Compared with 2020-11-05."
)


def test_reports_lose_what_rules_know_and_keep_findings(tmp_path: Path) -> None:
    image = ct_series()[0]
    found = scrubbed(REPORT, known_of(image))
    for name in ("Jane", "Doe", "00123456", "1943", "Miller", "2021", "10:45", "2020"):
        assert name not in found, name
    for kept in ("12 mm nodule", "series 3, image 204", "(3/204)", "No pleural effusion"):
        assert kept in found, kept
    table = tmp_path / "reports.csv"
    table.write_text(f'StudyInstanceUID,report\n1.2.3,"{REPORT}"\n', encoding="utf-8")
    texts = read_reports(table, NAMES)
    assert list(texts) == [NAMES.study("1.2.3")]
    assert said_of(texts[NAMES.study("1.2.3")])["pleural_effusion"] is False
    table.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no column"):
        read_reports(table, NAMES)
