"""Every series of the shared test input, which nobody here made: read rightly, or refused in plain words.

Volumes are judged by what is known of them from elsewhere (NIfTI of the same images, headers read by
pydicom alone), refusals by the words that a person needs.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_node.cli import main
from dicom_node.errors import SightlineError
from dicom_node.nifti import load_nifti
from dicom_node.results.segmentation import lesion_segmentation, organ_segmentation
from dicom_node.series import CandidateSeries, Survey, survey_files
from dicom_node.series_pixels import LoadedSeries, load_series
from dicom_node.series_settings import WAS_READ, SeriesSettings
from tests.dicom_node.ct_files import write_ct
from tests.dicom_node.readings import KEY, make_reading
from tests.dicom_node.small_checkpoint import write_small_checkpoint
from tests.dicom_node.validation import dciodvfy_errors
from tests.peers import shared_data

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FEW = SeriesSettings(minimum_slices=3, minimum_extent_mm=1.0)  # a few real slices are enough for geometry
ONE = "only 1 image; a volume needs several slices"
SHORT = r"only \d+ slices over \d+ mm; organs are recognised from 8 slices"


def survey(folder: Path, unpacked: Path, settings: SeriesSettings | None = None) -> Survey:
    """All files of a folder and of the zips in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for archive in [path for path in files if path.suffix == ".zip"]:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(unpacked / archive.stem)
    files += sorted(path for path in unpacked.rglob("*") if path.is_file())
    return survey_files(files, settings=settings or SeriesSettings())


# Folder -> what is read, and what is refused: each a pattern of the whole line.
EXPECTED: dict[str, tuple[list[str], list[str]]] = {
    "crlm_ct": (["'CT CH/AB/PEL' .41 slices, 5.00 mm apart"], []),
    "ct_dose_objects_openrem": (
        [],
        ["dose report"] * 15 + [r"Secondary Capture Image Storage \(a dose or protocol screen\)"],
    ),
    "ct_gantry_tilt": (
        ["28 slices, .*gantry tilt of 18.5 degrees and slice spacing varies .1.14 to 7.38 mm apart"],
        [
            r"localizer \(scout view\)",
            r"'Exam Summary' .* \(a dose or protocol screen\)",
            f"'STEREOTAXIS' .*: {SHORT}",
        ],
    ),
    "ct_geometry_oddities": (
        [],
        [
            f"'CHEST 2.5 MM/ABD.PEL 2.5MM' .*: {ONE}",
            "'CHEST CORONAL' .*: coronal reformat",
            "'CHEST SAGITTAL' .*: sagittal reformat",
            f"series 4 .4 objects.: {SHORT}",
            "series 4 .4 objects.: bolus tracking .one place over time., not a volume",
            f"series 2 .4 objects.: {SHORT}",
            "1 of 5 slices missing, the first after slice 3; send the series again",
            *["not a CT image: MR Image Storage"] * 2,
            f"'Thorax  2.0  B31f' .*: {SHORT}",
            "Modality is SEG although the SOP class is CT Image Storage",
        ],
    ),
    "ct_transfer_syntaxes": (
        [],
        [
            "'HELICAL CHEST' .* transfer syntax .* cannot be decoded",
            *["all 6 images lie at the same position"] * 2,
            *[ONE] * 9,
        ],
    ),
    "enhanced_multiframe_ct": (
        [],
        [
            *[SHORT] * 4,
            *["not a CT image: Segmentation Storage"] * 2,
            "perfusion map, not Hounsfield units",
            "Multi-frame Grayscale Word .* .a picture without Hounsfield units.",
        ],
    ),
    "non_ct_objects": (
        [],
        [
            "'Scout' .2 objects.: localizer",
            *["not a CT image: MR Image Storage"] * 4,
            "not a CT image: Ultrasound Image Storage",
            "not a CT image: RT Dose Storage$",
            "not a CT image: RT Plan Storage",
            "not a CT image: 12-lead ECG Waveform Storage",
        ],
    ),
    "sts_sarcoma_ct": (["51 slices, 3.27 mm apart"], ["not a CT image: RT Structure Set Storage"]),
    "totalsegmentator_example": (["'CT Body 3.0' .20 slices, 2.00 mm apart"], []),
    "spl_abdominal_atlas": ([], []),
    "totalsegmentator_labels": ([], []),
}


@pytest.mark.parametrize("folder", EXPECTED)
def test_every_series_is_read_or_refused_in_plain_words(folder: str, tmp_path: Path) -> None:
    found = survey(shared_data(folder), tmp_path)
    read, refused = EXPECTED[folder]
    assert not found.unreadable
    for lines, patterns in (
        ([str(c) for c in found.candidates], read),
        ([str(r) for r in found.refusals], refused),
    ):
        assert len(lines) == len(patterns), lines
        for pattern in patterns:
            hit = next((line for line in lines if re.search(pattern, line)), None)
            assert hit is not None, (pattern, lines)
            lines.remove(hit)


@pytest.mark.parametrize("folder", ["malformed", "seg_sr_reference", "nonascii_patient_names"])
def test_of_damaged_and_foreign_files_every_one_is_refused_with_a_reason(folder: str, tmp_path: Path) -> None:
    found = survey(shared_data(folder), tmp_path)
    assert not found.candidates
    known = re.compile(
        f"not a CT image: \\w.*|{ONE}|{SHORT}.*|localizer .*|.*: no pixel data .*send or copy the file again"
    )
    assert found.refusals
    for refusal in found.refusals:
        assert known.fullmatch(refusal.reason), refusal
    for line in found.unreadable:
        assert re.fullmatch(r"GH177\S+: the DICOM header cannot be read \(.*\)", line), line


@pytest.mark.parametrize("name", ["s0327_total.nii.gz", "s0328_total.nii.gz"])
def test_label_maps_are_no_ct(name: str) -> None:
    with pytest.raises(SightlineError, match=r"values run from 0 to \d+; a CT in Hounsfield units is needed"):
        load_nifti(shared_data("totalsegmentator_labels", name))


def test_the_atlas_is_no_ct() -> None:
    with pytest.raises(SightlineError, match="a CT in Hounsfield units is needed"):
        load_nifti(shared_data("spl_abdominal_atlas", "atlas.nii.gz"))


def series_of(folder: Path, unpacked: Path, pattern: str) -> CandidateSeries:
    """The one readable series whose line matches, a few slices being enough."""
    (found,) = (c for c in survey(folder, unpacked, FEW).candidates if re.search(pattern, str(c)))
    return found


def on_its_slices(series: CandidateSeries, loaded: LoadedSeries) -> float:
    """Mean difference, in HU, of the volume at the places of the slices' own pixels from what they hold.

    Bodies only (above -500 HU), away from edges, where resampling cannot keep every value; beside the
    slices' own centres the difference is that of a neighbouring place, half a voxel off. 0 where there is
    no body: some images were blanked by whoever gave them away.
    """
    differences = []
    for instance in series.instances[1:-1]:
        source = pydicom.dcmread(instance.path)
        hu = source.pixel_array * float(source.RescaleSlope) + float(source.RescaleIntercept)
        place = np.array(source.ImagePositionPatient, float)
        row, column = np.reshape(np.array(source.ImageOrientationPatient, float), (2, 3))
        pitch = [float(value) for value in source.PixelSpacing]
        i, j = np.mgrid[16 : hu.shape[0] - 16 : 9, 16 : hu.shape[1] - 16 : 9]
        points = place + i[..., None] * pitch[0] * column + j[..., None] * pitch[1] * row
        index = np.rint(loaded.volume.map_reference_to_indices(points.reshape(-1, 3))).astype(int)
        own = hu[i, j].ravel()
        flat = np.abs(hu[i + 4, j] - hu[i - 4, j]).ravel() + np.abs(hu[i, j + 4] - hu[i, j - 4]).ravel() < 60
        used = (own > -500) & flat & ((index >= 0) & (index < loaded.volume.spatial_shape)).all(axis=1)
        differences.append(np.abs(loaded.volume.array[tuple(index[used].T)] - own[used]))
    found = np.concatenate(differences)
    return float(found.mean()) if found.size else 0.0


def test_a_head_in_a_tilted_gantry_with_two_spacings_is_read_upright(tmp_path: Path) -> None:
    series = series_of(shared_data("ct_gantry_tilt"), tmp_path, "28 slices")
    loaded = load_series(series)
    assert np.allclose(loaded.volume.direction[:, 0], [0, 0, 1])
    assert loaded.volume.array.min() == -1024  # padding of -1500 and what no slice shows
    assert on_its_slices(series, loaded) < 25
    organs = organ_segmentation(make_reading(loaded.volume), loaded.sources, KEY)
    assert organs is not None
    assert dciodvfy_errors(organs, tmp_path) == []
    listed = organs.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {i.ReferencedSOPInstanceUID for i in listed} == {s.SOPInstanceUID for s in loaded.sources}


@pytest.mark.parametrize(
    ("folder", "pattern", "oddity", "count"),
    [
        ("ct_gantry_tilt", "STEREOTAXIS", "gantry tilt of 16.5 degrees", 5),
        ("ct_geometry_oddities", "gantry tilt of 14.0", "gantry tilt of 14.0 degrees", 4),
        ("ct_geometry_oddities", "5.00 mm apart; slice spacing", "slice spacing varies .5.00 to 10.00", 4),
        ("ct_geometry_oddities", "B31f", "", 4),
        ("enhanced_multiframe_ct", "'Multiframe image 23x38x3', stack 1", "", 3),
        ("enhanced_multiframe_ct", "'Multiframe image 24x38x3', stack 1", "", 3),
    ],
)
def test_a_few_real_slices_are_read_rightly_where_few_are_enough(
    folder: str, pattern: str, oddity: str, count: int, tmp_path: Path
) -> None:
    series = series_of(shared_data(folder), tmp_path, pattern)
    assert len(series.instances) == count
    assert re.search(oddity, " ".join(series.notes))
    assert bool(series.notes) == bool(oddity)
    if folder == "enhanced_multiframe_ct":
        with pytest.raises(SightlineError, match="a CT in Hounsfield units shows air"):
            load_series(series)  # label-like values of 0 to 3: no CT at all
        return
    loaded = load_series(series)
    assert on_its_slices(series, loaded) < (25 if oddity else 1e-6)


def test_legacy_converted_frames_lie_where_the_classic_slices_lie(tmp_path: Path) -> None:
    folder = shared_data("enhanced_multiframe_ct", "dcmqi_legacy_converted")
    for size in ("23x38x3", "24x38x3"):
        found = survey(folder / size, tmp_path, FEW).candidates
        classic, converted = sorted(found, key=lambda one: one.part)
        assert np.allclose(classic.geometry.affine, converted.geometry.affine)
        assert classic.geometry.spatial_shape == converted.geometry.spatial_shape
        for one, other in zip(classic.instances, converted.instances, strict=True):
            pixels = pydicom.dcmread(other.path).pixel_array[(other.frame or 1) - 1]
            assert np.array_equal(pydicom.dcmread(one.path).pixel_array, pixels)


def test_a_real_ct_is_the_same_as_dicom_and_as_nifti(tmp_path: Path) -> None:
    loaded = load_series(series_of(shared_data("sts_sarcoma_ct"), tmp_path, "51 slices"))
    nifti: nib.Nifti1Image = nib.load(shared_data("sts_sarcoma_ct", "nifti", "STS_003", "CT_image.nii.gz"))
    other = hd.Volume(
        np.asarray(nifti.dataobj),
        nifti.affine,
        coordinate_system="PATIENT",
        from_reference_convention="RAS",
    ).match_geometry(loaded.volume.get_geometry(), tol=0.01)
    assert np.abs(loaded.volume.array - np.clip(other.array, -1024, None)).max() <= 1


def test_padding_below_air_is_clamped(tmp_path: Path) -> None:
    volume = load_series(series_of(shared_data("crlm_ct"), tmp_path, "41 slices")).volume
    assert volume.array.min() == -1024
    assert (volume.array[:, 0, 0] == -1024).all()  # outside of the field of view, stored as -3024 HU


def test_an_over_anonymised_series_is_read_and_its_slices_have_names(tmp_path: Path) -> None:
    loaded = load_series(series_of(shared_data("totalsegmentator_example"), tmp_path, "20 slices"))
    assert all(source.SOPInstanceUID for source in loaded.sources)
    assert loaded.volume.spacing[0] == pytest.approx(2.0)  # not the thickness of 3


def test_patients_of_any_script_get_results(tmp_path: Path) -> None:
    files = sorted(shared_data("nonascii_patient_names", "pydicom", "charset_files").glob("*.dcm"))
    named = 0
    for number, path in enumerate(files):
        said = pydicom.dcmread(path)
        if "PatientName" not in said or "SpecificCharacterSet" not in said:
            continue
        name, charset = str(said.PatientName), said.SpecificCharacterSet

        def change(dataset: pydicom.FileDataset, _: int, said: pydicom.FileDataset = said) -> None:
            dataset.SpecificCharacterSet = said.SpecificCharacterSet
            dataset.PatientName = said.PatientName

        (candidate,) = survey_files(write_ct(tmp_path / str(number), change=change)).candidates
        loaded = load_series(candidate)
        segmentation = lesion_segmentation(make_reading(loaded.volume), loaded.sources, KEY)
        assert segmentation is not None
        assert dciodvfy_errors(segmentation, tmp_path) == [], charset
        assert str(pydicom.dcmread(tmp_path / "validated.dcm").PatientName) == name
        named += 1
    assert named >= 12


def test_the_command_reads_a_tilted_head_and_says_what_else_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "model")
    survey(shared_data("ct_gantry_tilt"), tmp_path / "study", WAS_READ)
    out = tmp_path / "out"
    command = ["read", str(tmp_path / "study"), "--out", str(out), "--checkpoint", str(checkpoint)]
    assert main([*command, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "gantry tilt of 18.5 degrees and slice spacing varies" in said
    assert "not read: series 100 (1 object): localizer" in said
    assert "not read: series 301 'STEREOTAXIS'" in said
    report = pydicom.dcmread(out / "findings.sr.dcm")
    comments = [item.TextValue for item in report.ContentSequence if "TextValue" in item]
    assert any("Read from a volume resampled" in text for text in comments)
    assert dciodvfy_errors(report, tmp_path) == []
