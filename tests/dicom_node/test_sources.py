"""Paths of every kind, real and hostile: a volume comes back or one line that says why not."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from dicom_node import sources
from dicom_node.errors import SightlineError
from dicom_node.instances import read_instance
from dicom_node.nifti import load_nifti, save_nifti
from dicom_node.series import survey_files
from dicom_node.series_pixels import load_slice
from dicom_node.sources import CtInput, open_ct
from tests import peers
from tests.dicom_node.ct_files import write_ct

Data = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture
def shared_data() -> Data:
    """`tests.peers.shared_data`: path of shared test input, else skip."""
    return peers.shared_data


def zip_of(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.name)
    return target


def why_not(path: Path) -> str:
    with pytest.raises(SightlineError) as caught:
        open_ct(path)
    assert str(path) in caught.value.message.splitlines()[0]
    return caught.value.message


# Folders and zips


def test_a_folder_is_searched_to_the_bottom(tmp_path: Path) -> None:
    write_ct(tmp_path / "disc" / "A" / "B")
    (tmp_path / "disc" / "readme.txt").write_text("viewer")
    loaded = open_ct(tmp_path / "disc")
    assert loaded.volume.shape == (12, 16, 20)
    assert loaded.title == "series 3 'TEST' (12 slices, 2.50 mm apart)"
    assert loaded.not_read == ()


def test_other_series_are_named_with_the_reason(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", series="2.25.1")
    write_ct(tmp_path / "b", series="2.25.2", n_slices=11)
    write_ct(tmp_path / "c", series="2.25.3", n_slices=2)
    (tmp_path / "d.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0\xff\xff\xff\x7f")
    loaded = open_ct(tmp_path)
    assert loaded.series_instance_uid == "2.25.1"
    better, too_few, damaged = loaded.not_read
    assert better.endswith(": shows less of the body (25 mm); series 3 'TEST' is better")
    assert "only 2 slices" in too_few
    assert damaged.startswith("d.dcm: ") or "no SOP class" in damaged


def test_a_zip_reads_like_its_folder(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    from_folder = open_ct(tmp_path / "ct")
    from_zip = open_ct(zip_of(tmp_path / "ct", tmp_path / "ct.zip"))
    assert (from_zip.volume.array == from_folder.volume.array).all()
    assert from_zip.slices == from_folder.slices


def test_a_zip_never_writes_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for k, path in enumerate(write_ct(tmp_path / "ct")):
            archive.write(path, f"../../evil{k}.dcm")
        archive.writestr("/etc/evil.txt", "x")
    before = sorted(tmp_path.parent.iterdir()), sorted(tmp_path.iterdir())
    assert open_ct(tmp_path / "evil.zip").volume.shape[0] == 12
    assert (sorted(tmp_path.parent.iterdir()), sorted(tmp_path.iterdir())) == before
    assert not list((tmp_path / "tmp").iterdir())


def test_a_zip_bomb_is_stopped_by_what_it_unpacks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_ZIP_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(8 << 20))
    content = (tmp_path / "bomb.zip").read_bytes()
    # The directory lies about the size, as bombs do.
    (tmp_path / "bomb.zip").write_bytes(content.replace(struct.pack("<I", 8 << 20), struct.pack("<I", 9)))
    message = why_not(tmp_path / "bomb.zip")
    assert "unpacks to more" in message or "not a complete zip" in message


def test_a_truncated_zip_is_named(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    path = zip_of(tmp_path / "ct", tmp_path / "ct.zip")
    path.write_bytes(path.read_bytes()[:4000])
    assert "not a complete zip file (BadZipFile); copy it again" in why_not(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    path = zip_of(tmp_path / "ct", tmp_path / "ct.zip")
    content = bytearray(path.read_bytes())
    start = 0
    while (at := content.find(b"PK\x01\x02", start)) >= 0:
        content[at + 8] |= 1  # general purpose flag of the central directory
        start = at + 1
    path.write_bytes(content)
    assert "encrypted" in why_not(path)


def test_a_truncated_slice_is_named(tmp_path: Path) -> None:
    paths = write_ct(tmp_path)
    paths[5].write_bytes(paths[5].read_bytes()[:-200])
    message = why_not(tmp_path)
    assert f"{paths[5].name}: the pixel data is cut off: 440 of 640 bytes; send or copy" in message


def test_nothing_there(tmp_path: Path) -> None:
    assert why_not(tmp_path / "nope").endswith("no such file or folder; check the path")
    assert "no DICOM files in it (no files)" in why_not(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    assert "no DICOM files in it (1 other file)" in why_not(tmp_path)
    assert "no DICOM files in it (1 other file)" in why_not(tmp_path / "a.txt")
    (tmp_path / "a.zip").touch()
    assert "name a zip or NIfTI file itself" in why_not(tmp_path)


def test_a_pipe_among_the_files_is_passed_over(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    os.mkfifo(tmp_path / "ct" / "pipe")
    (tmp_path / "ct" / "dangling").symlink_to(tmp_path / "nowhere")
    assert open_ct(tmp_path / "ct").volume.shape[0] == 12
    assert "neither a file nor a folder" in why_not(tmp_path / "ct" / "pipe")


# NIfTI


def nifti(path: Path, array: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    if array is None:
        array = np.arange(20 * 21 * 22, dtype=np.int16).reshape(20, 21, 22) % 1500 - 1000
    nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


@settings(max_examples=20, deadline=None)
@given(
    axes=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    angle=st.floats(-0.6, 0.6),
)
def test_nifti_in_any_axis_order_goes_in_and_out_unmoved(
    tmp_path_factory: pytest.TempPathFactory, axes: list[int], signs: tuple[int, ...], angle: float
) -> None:
    folder = tmp_path_factory.mktemp("nifti")
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array(signs) * 2.5)[:, axes]
    affine[:3, 3] = 5, -7, 11
    path = nifti(folder / "ct.nii.gz", affine=affine)
    loaded = load_nifti(path)
    stored = nib.load(path)
    # The same voxel by its place: file index -> RAS -> LPS -> volume index.
    place_ras = (stored.affine @ [3, 5, 7, 1])[:3]
    index = loaded.volume.map_reference_to_indices((place_ras * [-1, -1, 1])[None], round_output=True)[0]
    assert loaded.volume.array[tuple(index)] == np.asarray(stored.dataobj)[3, 5, 7]
    assert [d.value for d in loaded.volume.get_closest_patient_orientation()] == ["H", "P", "L"]
    for k in (0, len(loaded.slices) - 1):
        corner = loaded.volume.map_indices_to_reference(np.array([[k, 0, 0]]))[0]
        assert np.allclose(loaded.slices[k].position_lps_mm, corner)
    mask = loaded.volume.with_array((loaded.volume.array > 100).astype(np.uint8))
    save_nifti(mask, loaded.file_geometry, folder / "mask.nii.gz")
    written = nib.load(folder / "mask.nii.gz")
    assert np.allclose(written.affine, stored.affine, atol=1e-4)
    assert (np.asarray(written.dataobj) == (np.asarray(stored.dataobj) > 100)).all()


@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (np.zeros((20, 20, 20, 3), np.int16), None, r"4-dimensional \(20, 20, 20, 3\); give one 3D volume"),
        (np.ones((20, 20, 20), np.uint8), None, "values run from 1 to 1; a CT in Hounsfield units"),
        (np.full((20, 20, 20), -2000, np.int16), np.diag([9e-4, 9e-4, 9e-4, 1]), "a CT in millimetres"),
        (np.full((20, 20, 3), -2000, np.int16), None, "only .* mm; organs are recognised"),
        (
            np.full((20, 20, 20), -2000, np.int16),
            np.array([[2, 1.0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
            "not at right angles",
        ),
        (np.zeros((20, 20, 20), np.complex64), None, "values are complex64"),
    ],
)
def test_nifti_that_is_no_ct_is_refused(
    tmp_path: Path, array: np.ndarray, affine: np.ndarray | None, reason: str
) -> None:
    path = nifti(tmp_path / "x.nii.gz", array, affine)
    with pytest.raises(SightlineError, match=reason):
        open_ct(path)


def test_nifti_without_orientation_is_refused(tmp_path: Path) -> None:
    image = nib.load(nifti(tmp_path / "ct.nii"))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "lost.nii")
    assert "does not say where left and right are" in why_not(tmp_path / "lost.nii")


def test_not_a_number_becomes_air(tmp_path: Path) -> None:
    array = np.full((20, 20, 20), -1000, np.float32)
    array[1, 2, 3], array[4, 5, 6], array[7, 8, 9] = np.nan, np.inf, -5000
    values = open_ct(nifti(tmp_path / "x.nii.gz", array)).volume.array
    assert np.isfinite(values).all()
    assert values.min() == -1024


@pytest.mark.parametrize("keep", [0, 100, 400, 2000])
def test_truncated_nifti_is_named(tmp_path: Path, keep: int) -> None:
    path = nifti(tmp_path / "ct.nii.gz")
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a readable NIfTI" in why_not(path) or "cut off" in why_not(path)
    plain = tmp_path / "ct.nii"
    plain.write_bytes(gzip.decompress(nifti(tmp_path / "b.nii.gz").read_bytes())[:keep])
    assert "not a readable NIfTI" in why_not(plain) or "cut off" in why_not(plain)


# Real data


def test_crlm_zip(shared_data: Data) -> None:
    loaded = open_ct(shared_data("crlm_ct", "CRLM-CT-1004.zip"))
    assert loaded.volume.shape == (41, 512, 512)
    assert loaded.volume.spacing == pytest.approx((5, 0.796875, 0.796875))
    assert (loaded.volume.array.min(), loaded.volume.array.dtype) == (-1024, np.int16)
    assert [s.position_lps_mm[2] for s in loaded.slices] == list(range(-375, -174, 5))
    assert not any("PixelData" in source for source in loaded.sources)


def test_jpeg_2000_with_empty_uids_matches_the_nifti_made_of_it(shared_data: Data) -> None:
    folder = shared_data("totalsegmentator_example", "example_ct_dicom")
    loaded = open_ct(folder)
    assert loaded.volume.spacing == pytest.approx((2, 0.9765625, 0.9765625))  # not the 3 mm thickness
    names = [path.name.removeprefix("CT.") for path in folder.iterdir()]
    assert sorted(s.sop_instance_uid or "" for s in loaded.slices) == sorted(names)
    assert [str(s.SOPInstanceUID) for s in loaded.sources] == [s.sop_instance_uid for s in loaded.slices]
    # An independent converter's grid of the same series, in its own axis order.
    reference = nib.load(shared_data("totalsegmentator_example", "example_seg_dicom.nii.gz"))
    grid = hd.VolumeGeometry(
        reference.affine,
        reference.shape,
        coordinate_system="PATIENT",
        from_reference_convention="RAS",
    )
    assert loaded.volume.match_geometry(grid, tol=1e-3).shape == reference.shape


def test_example_nifti(shared_data: Data) -> None:
    loaded = open_ct(shared_data("totalsegmentator_example", "example_ct.nii.gz"))
    assert loaded.volume.shape == (112, 101, 122)
    assert loaded.volume.array.min() == -1024
    assert loaded.sources == ()
    assert loaded.series_instance_uid is None


def test_dicom_and_nifti_of_one_patient_agree(shared_data: Data) -> None:
    dicom = open_ct(shared_data("sts_sarcoma_ct", "STS_003_CT_dicom_rtstruct.zip"))
    converted = open_ct(shared_data("sts_sarcoma_ct", "nifti", "STS_003", "CT_image.nii.gz"))
    assert np.allclose(dicom.volume.affine, converted.volume.affine, atol=1e-3)
    assert (dicom.volume.array == converted.volume.array).all()
    (line,) = dicom.not_read
    assert "not a CT image: RT Structure Set Storage" in line


@pytest.mark.parametrize(
    "parts",
    [
        ("totalsegmentator_labels", "s0327_total.nii.gz"),
        ("sts_sarcoma_ct", "nifti", "STS_003", "CT_mask.nii.gz"),
        ("spl_abdominal_atlas", "atlas.nii.gz"),
    ],
)
def test_real_label_maps_are_no_ct(shared_data: Data, parts: tuple[str, ...]) -> None:
    assert "a CT in Hounsfield units is needed" in why_not(shared_data(*parts))


def test_of_many_unreadable_series_each_says_why(shared_data: Data) -> None:
    message = why_not(shared_data("ct_geometry_oddities", "dicom2nifti_failing.zip"))
    for reason in (
        "only 4 slices over 15 mm",
        "bolus tracking (one place over time)",
        "only 4 slices over 20 mm",
        "1 of 5 slices missing, the first after slice 3",
    ):
        assert message.count(reason) == 1
    assert message.count("not a CT image: MR Image Storage") == 2


def test_a_tilted_head_is_read(shared_data: Data) -> None:
    source = open_ct(shared_data("ct_gantry_tilt", "GE_HiSpeed_tilt_varspacing.zip"))
    assert len(source.sources) == len(source.references) == 28
    assert source.volume.spatial_shape[0] > 28
    assert "gantry tilt of 18.5 degrees" in source.title
    assert "gantry tilt of 18.5 degrees" in source.notes[0]


def test_what_spoils_the_best_series_is_said_with_what_else_is_there(tmp_path: Path) -> None:
    def damage(dataset: pydicom.FileDataset, k: int) -> None:
        dataset.SeriesNumber = 7
        if k == 3:
            dataset.file_meta.TransferSyntaxUID = RLELossless
            dataset.PixelData = encapsulate([b"\xff" * 100])
            dataset["PixelData"].is_undefined_length = True

    write_ct(tmp_path / "a", series="2.25.77.20", n_slices=40, change=damage)
    write_ct(tmp_path / "b", series="2.25.77.30")
    first, other = why_not(tmp_path).splitlines()
    assert "series 7 'TEST': " in first
    assert "the pixel data cannot be decoded" in first
    assert first.endswith("; also there, and not read:")
    assert other == (
        "  series 3 'TEST' (12 slices, 2.50 mm apart): shows less of the body (28 mm); "
        "series 7 'TEST' is better"
    )


@pytest.mark.parametrize(
    "folder", ["non_ct_objects", "malformed", "ct_dose_objects_openrem", "nonascii_patient_names"]
)
def test_what_is_no_ct_volume_is_refused_and_nothing_breaks(shared_data: Data, folder: str) -> None:
    message = why_not(shared_data(folder))
    assert "no readable CT series" in message
    survey = survey_files(path for path in shared_data(folder).rglob("*") if path.is_file())
    assert not survey.candidates
    assert all(r.reason.isprintable() and len(r.reason) < 200 for r in survey.refusals)
    if folder == "ct_dose_objects_openrem":
        assert all("SR Storage" in r.reason or "Secondary Capture" in r.reason for r in survey.refusals)
    if folder == "nonascii_patient_names":
        names = [str(pydicom.dcmread(p).get("PatientName", "")) for p in shared_data(folder).rglob("*.dcm")]
        assert not any(name in message for name in names if len(name) > 3)


def test_malformed_files_one_by_one(shared_data: Data) -> None:
    folder = shared_data("malformed")

    def reason(*parts: str) -> str:
        survey = survey_files([folder.joinpath(*parts)])
        return " ".join([*(r.reason for r in survey.refusals), *survey.unreadable])

    assert "pixel data is cut off" in _pixel_problem(folder, "orthanc/2026-05-26-oob-monochrome-65535.dcm")
    assert "no pixel data" in _pixel_problem(folder, "fo-dicom/GH223.dcm")
    assert "cannot be read (OSError" in reason(
        "fo-dicom", "GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm"
    )
    assert reason("pydicom", "rtplan_truncated.dcm") == "not a CT image: RT Plan Storage"


def _pixel_problem(folder: Path, name: str) -> str:
    return read_instance(folder / name).pixel_problem or ""


@pytest.mark.parametrize("codec", ["J2KI", "J2KR", "JLSL", "JLSN", "JPLL", "RLE"])
@pytest.mark.parametrize("image", ["CT1", "CT2"])
def test_every_transfer_syntax_decodes_to_the_same_hounsfield_units(
    shared_data: Data, codec: str, image: str
) -> None:
    folder = shared_data("ct_transfer_syntaxes", "nema_wg04")
    reference = load_slice(read_instance(folder / "REF" / f"{image}_UNC")).astype(int)
    decoded = load_slice(read_instance(folder / codec / f"{image}_{codec}")).astype(int)
    assert reference.min() == -1024
    if codec in ("J2KI", "JLSN"):  # lossy, J2KI up to 106 : 1
        assert np.corrcoef(decoded.ravel(), reference.ravel())[0, 1] > 0.99
        assert abs((decoded - reference).mean()) < 2
    else:
        assert (decoded == reference).all()


@pytest.mark.parametrize("codec", ["J2KR", "JLSL", "JPLL", "RLE"])
def test_a_truncated_compressed_slice_is_noticed_before_it_is_decoded(
    shared_data: Data, tmp_path: Path, codec: str
) -> None:
    content = (shared_data("ct_transfer_syntaxes", "nema_wg04") / codec / f"CT1_{codec}").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: len(content) * 2 // 3])
    assert read_instance(tmp_path / "cut.dcm").pixel_problem == "the compressed pixel data is cut off"


def test_input_is_not_changed_by_reading(tmp_path: Path) -> None:
    paths = write_ct(tmp_path)
    before = [path.read_bytes() for path in paths]
    loaded: CtInput = open_ct(tmp_path)
    loaded.sources[0].PatientID = "changed"
    assert [path.read_bytes() for path in paths] == before
    assert io.BytesIO(before[0]).read(132)[128:] == b"DICM"
