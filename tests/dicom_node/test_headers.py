"""Clean headers: dirt is removed from the copy, names survive, the originals stay as they were."""

from __future__ import annotations

import copy

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.results.headers import clean_headers
from tests.dicom_node.ct_series import ct_series, write_series
from tests.dicom_node.dirt import DIRT, spoiled

NAMES = [
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
    ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
    ("Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"]),
    ("Müller^Jérôme", "ISO_IR 100"),
    ("Διονυσιος", "ISO_IR 126"),
    ("Жуков^Юрий", "ISO_IR 144"),
    ("Wang^XiaoDong=王^小東", "GB18030"),
    ("Buc^Jérôme", "ISO_IR 192"),
]


@pytest.mark.parametrize("name", DIRT)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom, when it compares the copies
def test_originals_are_not_altered(name):
    slices = spoiled(ct_series(), name)
    before = [copy.deepcopy(dataset) for dataset in slices]
    clean_headers(slices)
    assert slices == before


@pytest.mark.parametrize(("name", "character_set"), NAMES)
def test_names_survive_in_every_character_set(name, character_set, tmp_path):
    slices = ct_series(patient_name=name, character_set=character_set)[:1]
    dataset = pydicom.dcmread(write_series(slices, tmp_path)[0], stop_before_pixels=True)
    header = clean_headers([dataset])[0]
    assert header.SpecificCharacterSet == "ISO_IR 192"
    header.save_as(tmp_path / "clean", implicit_vr=False, little_endian=True)
    back = pydicom.dcmread(tmp_path / "clean", force=True)
    assert str(back.PatientName) == name


def test_plain_names_need_no_character_set():
    assert "SpecificCharacterSet" not in clean_headers(ct_series(character_set="ISO_IR 100"))[0]


def test_empty_sop_uids_come_from_the_file_meta():
    slices = spoiled(ct_series(), "empty SOP UIDs")
    headers = clean_headers(slices)
    assert [h.SOPInstanceUID for h in headers] == [s.file_meta.MediaStorageSOPInstanceUID for s in slices]
    assert headers[0].SOPClassUID == slices[0].file_meta.MediaStorageSOPClassUID


@pytest.mark.parametrize("name", ["no study UID", "study UID that is a path", "no series UID"])
def test_missing_uids_are_replaced_the_same_way_in_all_slices(name):
    headers = clean_headers(spoiled(ct_series(), name))
    assert len({(h.StudyInstanceUID, h.SeriesInstanceUID, h.FrameOfReferenceUID) for h in headers}) == 1
    assert headers[0].StudyInstanceUID.is_valid
    assert headers[0].SeriesInstanceUID.is_valid


def test_what_is_right_is_kept():
    source = ct_series()[0]
    header = clean_headers([source])[0]
    for keyword in (
        "PatientID",
        "PatientSex",
        "PatientBirthDate",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
    ):
        assert header[keyword].value == source[keyword].value
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        assert list(header[keyword].value) == pytest.approx(list(source[keyword].value))


def test_repairable_dates_and_times_are_repaired():
    assert clean_headers(spoiled(ct_series(), "times with colons"))[0].StudyTime == "101112"
    assert clean_headers(spoiled(ct_series(), "impossible date"))[0].StudyDate == ""


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_survived(name, identifier, date, sex):
    dataset = ct_series(shape=(2, 8, 8))[0]
    for keyword, value in (
        ("PatientName", name),
        ("PatientID", identifier),
        ("StudyDate", date),
        ("PatientSex", sex),
    ):
        element = pydicom.DataElement(
            pydicom.datadict.tag_for_keyword(keyword), "UT", value, validation_mode=pydicom.config.IGNORE
        )
        dataset.add(element)
    header = clean_headers([dataset])[0]
    assert header.PatientSex in {"", "M", "F", "O"}
    assert header.StudyDate == "" or len(header.StudyDate) == 8
    assert "\n" not in str(header.PatientName)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"SOPInstanceUID": "not a uid"}, "SOP Instance UID"),
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient"),
        ({"NumberOfFrames": 3}, "multi-frame"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_unusable_slices_are_refused_by_name(spoil, message):
    slices = ct_series()
    slices[3].update(spoil)
    if "SOPInstanceUID" in spoil:
        slices[3].file_meta.MediaStorageSOPInstanceUID = ""
    with pytest.raises(ValueError, match=rf"sources\[3\].*{message}"):
        clean_headers(slices)


def test_two_series_are_refused():
    with pytest.raises(ValueError, match="2 series"):
        clean_headers([*ct_series(), *ct_series(uid_root="2.25.305")])
    with pytest.raises(ValueError, match="empty"):
        clean_headers([])
