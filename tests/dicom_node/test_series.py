"""Series: what is read, what is refused and in which words, which is chosen, and that geometry holds."""

from __future__ import annotations

import random
import re
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)

from dicom_node.errors import SightlineError
from dicom_node.series import CandidateSeries, survey_files
from dicom_node.series_geometry import GeometryError, stack_slices
from dicom_node.series_pixels import load_series
from tests.dicom_node.ct_files import ROOT, stored_values, write_ct


def only_candidate(paths: list[Path]) -> CandidateSeries:
    survey = survey_files(paths)
    assert not survey.refusals, [str(r) for r in survey.refusals]
    (candidate,) = survey.candidates
    return candidate


def setting(**values: object) -> Callable[[FileDataset, int], None]:
    """A change that sets (or with None deletes) elements of every slice."""

    def change(dataset: FileDataset, _: int) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return change


def rotations() -> st.SearchStrategy[npt.NDArray[np.float64]]:
    """Proper rotations from random unit quaternions."""
    part = st.floats(-1, 1)
    return (
        st.tuples(part, part, part, part)
        .filter(lambda q: sum(v * v for v in q) > 0.01)
        .map(lambda q: _rotation(np.asarray(q) / np.linalg.norm(q)))
    )


def _rotation(q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@settings(max_examples=15, deadline=None)
@given(
    rotation=rotations(),
    spacing=st.tuples(st.floats(2.9, 7), st.floats(0.3, 2), st.floats(0.3, 2)),
    n_slices=st.integers(8, 14),
    seed=st.integers(0, 1000),
)
def test_every_voxel_lies_where_its_header_says(
    rotation: npt.NDArray[np.float64], spacing: tuple[float, float, float], n_slices: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_ct(Path(folder), n_slices=n_slices, spacing=spacing, rotation=rotation)
        shuffled = random.Random(seed).sample(paths, len(paths))
        loaded = load_series(only_candidate(shuffled))
    assert [s.sop_instance_uid for s in loaded.slices] == [f"{ROOT}.2.{k + 1}" for k in range(n_slices)]
    for k, source in enumerate(loaded.sources):
        assert (loaded.volume.array[k] == stored_values(k, 16, 20).astype(int) - 1024).all()
        # PS3.3 equation C.7.6.2.1-1, from this slice's own header.
        position, cosines, pitch = (
            np.asarray(source[keyword].value, dtype=float)
            for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        )
        row, column = 15, 19
        expected = position + cosines[:3] * pitch[1] * column + cosines[3:] * pitch[0] * row
        actual = loaded.volume.map_indices_to_reference(np.array([[k, row, column]]))[0]
        assert np.allclose(actual, expected, atol=0.01)
        assert np.allclose(loaded.slices[k].position_lps_mm, position)


@settings(deadline=None)
@given(
    jitter=st.lists(st.floats(-0.09, 0.09), min_size=20, max_size=20),
    spacing=st.floats(1.0, 8.0),
    rotation=rotations(),
)
def test_positions_rounded_by_the_scanner_are_one_grid(
    jitter: list[float], spacing: float, rotation: npt.NDArray[np.float64]
) -> None:
    heights = np.arange(20) * spacing + np.asarray(jitter) / 2
    positions = heights[:, None] * rotation[:, 2]
    stack = stack_slices(positions, np.tile(rotation[:, :2].T.ravel(), (20, 1)))
    assert stack.order == tuple(range(20))
    assert stack.is_regular
    assert abs(stack.spacing_mm - spacing) < 0.01


@settings(deadline=None)
@given(missing=st.integers(1, 18), spacing=st.floats(0.5, 8.0), rotation=rotations(), numbered=st.booleans())
def test_a_missing_slice_is_named_and_bridged_only_over_ten_millimetres(
    missing: int, spacing: float, rotation: npt.NDArray[np.float64], numbered: bool
) -> None:
    assume(abs(2 * spacing - 10) > 0.01)
    heights = np.delete(np.arange(20), missing) * spacing
    positions = heights[:, None] * rotation[:, 2]
    cosines = np.tile(rotation[:, :2].T.ravel(), (19, 1))
    numbers = [int(n) for n in np.delete(np.arange(20), missing)] if numbered else None
    if 2 * spacing < 10:
        stack = stack_slices(positions, cosines, numbers)
        (oddity,) = stack.oddities
        assert f"1 slice missing after slice {missing} " in oddity
        assert abs(stack.spacing_mm - spacing) < 1e-6
    else:
        with pytest.raises(GeometryError, match=f"1 slice missing after slice {missing}: .* not bridged"):
            stack_slices(positions, cosines, numbers)


def test_a_tenth_of_the_slices_may_be_missing_and_no_more() -> None:
    cosines = [1, 0, 0, 0, 1, 0]

    def stack(*missing: int) -> tuple[str, ...]:
        heights = [float(k) for k in range(40) if k not in missing]
        return stack_slices([(0, 0, z) for z in heights], [cosines] * len(heights)).oddities

    assert "4 slices missing after slice 5 " in stack(5, 10, 20, 30)[0]
    with pytest.raises(GeometryError, match="5 of 40 slices missing, the first after slice 5"):
        stack(5, 10, 20, 30, 35)


def test_a_wider_spacing_is_no_missing_slice_where_instance_numbers_go_on() -> None:
    heights = [*range(0, 50, 5), *range(50, 150, 10)]
    stack = stack_slices([(0, 0, z) for z in heights], [[1, 0, 0, 0, 1, 0]] * 20, list(range(20)))
    assert stack.oddities == ("slice spacing varies (5.00 to 10.00 mm apart)",)


@settings(deadline=None)
@given(degrees=st.floats(3, 30), spacing=st.floats(1, 8), rotation=rotations())
def test_tilt_is_found_from_positions_in_any_orientation(
    degrees: float, spacing: float, rotation: npt.NDArray[np.float64]
) -> None:
    step = rotation[:, 2] + np.tan(np.radians(degrees)) * rotation[:, 1]
    positions = np.arange(12)[:, None] * spacing * step
    stack = stack_slices(positions, np.tile(rotation[:, :2].T.ravel(), (12, 1)))
    assert stack.oddities == (f"gantry tilt of {degrees:.1f} degrees",)
    assert np.allclose(stack.along, step / np.linalg.norm(step))
    assert abs(stack.spacing_mm - spacing * np.linalg.norm(step)) < 1e-6


def test_no_gantry_tilts_like_that_and_no_scanner_shifts_slices_at_random() -> None:
    cosines = [[1, 0, 0, 0, 1, 0]] * 12
    with pytest.raises(GeometryError, match="tilted 45 degrees; no gantry tilts beyond 35"):
        stack_slices([(0, 3 * k, 3 * k) for k in range(12)], cosines)
    with pytest.raises(GeometryError, match=r"shifted sideways .* by up to 4\.0 mm"):
        stack_slices([(0, 4 * (k == 5), 3 * k) for k in range(12)], cosines)


def _move_to_one_place(dataset: FileDataset, _: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 0]


def _two_phases(dataset: FileDataset, k: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 2.5 * (k // 2)]


def _turn_one(dataset: FileDataset, k: int) -> None:
    if k == 3:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.96, -0.28]


def _enlarge_one(dataset: FileDataset, k: int) -> None:
    if k == 3:
        dataset.Rows, dataset.PixelData = 32, dataset.PixelData * 2


def _cut_one(dataset: FileDataset, k: int) -> None:
    if k == 3:
        dataset.PixelData = dataset.PixelData[:100]


REFUSED: list[tuple[Callable[[FileDataset, int], None], str]] = [
    (setting(Modality="MR"), "Modality is MR although the SOP class is CT"),
    (setting(Modality="SEG"), "Modality is SEG although the SOP class is CT"),
    (setting(SOPClassUID=SegmentationStorage), "not a CT image: Segmentation Storage"),
    (setting(SOPClassUID=EnhancedCTImageStorage), "functional groups describe 0 of 1 frames"),
    (setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    (setting(ImageType=["DERIVED", "SECONDARY", "MIP"]), r"projection image \(MIP\)"),
    (setting(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), "dose or protocol screen"),
    (setting(SeriesDescription="Patient Protocol"), "dose or protocol screen"),
    (setting(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 MON"]), "bolus tracking"),
    (setting(SOPClassUID=XRayRadiationDoseSRStorage), r"not a CT image: .* \(a dose report\)"),
    (setting(SOPClassUID=SecondaryCaptureImageStorage), r"\(a picture without Hounsfield units\)"),
    (setting(PhotometricInterpretation="RGB"), r"colour image \(RGB\)"),
    (setting(RescaleSlope=None), "no usable Rescale Slope"),
    (setting(RescaleType="Z_EFF"), "values are in Z_EFF"),
    (setting(ImagePositionPatient=None), "no Image Position or Orientation"),
    (setting(ImagePositionPatient=["", "", ""]), "no Image Position or Orientation"),
    (setting(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "not two unit vectors"),
    (setting(PixelSpacing=["0", "0"]), "no usable Pixel Spacing"),
    (setting(PixelData=None), "no pixel data"),
    (setting(NumberOfFrames=1, Rows=46341, Columns=46341), "pixel data is cut off: 640 of 4294976562"),
    (_move_to_one_place, "all 12 images lie at the same position"),
    (_two_phases, "12 images at only 6 positions"),
    (_turn_one, "different orientations"),
    (_enlarge_one, "differ in size"),
    (_cut_one, "-3.dcm: the pixel data is cut off: 100 of 640 bytes"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_refusal_says_why(tmp_path: Path, change: Callable[[FileDataset, int], None], reason: str) -> None:
    survey = survey_files(write_ct(tmp_path, change=change))
    assert not survey.candidates
    (refusal,) = survey.refusals
    assert refusal.n_instances == 12
    assert re.search(reason, refusal.reason), refusal.reason


def test_too_few_slices_are_refused(tmp_path: Path) -> None:
    (refusal,) = survey_files(write_ct(tmp_path, n_slices=7)).refusals
    assert refusal.reason.startswith("only 7 slices over 15 mm")


def test_a_localizer_filed_under_the_series_does_not_spoil_it(tmp_path: Path) -> None:
    paths = write_ct(tmp_path / "a")
    scout = setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SOPInstanceUID=f"{ROOT}.9")
    paths += write_ct(tmp_path / "b", n_slices=1, change=scout)
    survey = survey_files(paths)
    assert [len(c.instances) for c in survey.candidates] == [12]
    assert [r.reason for r in survey.refusals] == ["localizer (scout view), not a volume"]


def test_copies_of_a_file_count_once(tmp_path: Path) -> None:
    paths = write_ct(tmp_path / "a") + write_ct(tmp_path / "b")
    assert len(only_candidate(paths).instances) == 12


def test_positions_count_and_not_slice_thickness(tmp_path: Path) -> None:
    candidate = only_candidate(write_ct(tmp_path, change=setting(SliceThickness="5")))
    assert candidate.geometry.spacing[0] == pytest.approx(2.5)


def test_empty_uids_are_filled_from_file_meta_or_derived(tmp_path: Path) -> None:
    def empty(dataset: FileDataset, _: int) -> None:
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(dataset, keyword, "")

    paths = write_ct(tmp_path)
    for path in paths:  # pydicom itself will not write a file like that
        content = path.read_bytes()
        for uid in (f"{ROOT}.1", f"{ROOT}.2"):
            content = _without_uid(content, 0x0020, uid)
        path.write_bytes(_without_uid(content, 0x0008, f"{ROOT}.2"))
    first, again = (load_series(only_candidate(paths)) for _ in range(2))
    assert [s.SOPInstanceUID for s in first.sources] == [f"{ROOT}.2.{k + 1}" for k in range(12)]
    assert first.series_instance_uid.startswith("2.25.")
    assert first.series_instance_uid == again.series_instance_uid
    assert {s.SeriesInstanceUID for s in first.sources} == {first.series_instance_uid}
    assert len({s.StudyInstanceUID for s in first.sources}) == 1


def _without_uid(content: bytes, group: int, value: str) -> bytes:
    """Blank the elements of a group whose UID starts with `value`, keeping every length."""
    start, marker = 0, group.to_bytes(2, "little")
    while (at := content.find(value.encode(), start)) >= 0:
        if content[at - 8 : at - 6] == marker and content[at - 4 : at - 2] == b"UI":
            length = int.from_bytes(content[at - 2 : at], "little")
            content = content[:at] + b"\0" * length + content[at + length :]
        start = at + 1
    return content


@pytest.mark.parametrize(
    ("intercept", "padding", "stored", "expected"),
    [
        ("-1024", None, 0, -1024),  # padding is not declared and below air
        ("-3024", None, 0, -1024),
        ("-1024", 5000, 5000, -1024),  # declared, and too dense for tissue
        ("-700", 740, 740, 40),  # declared, but it is tissue: not believed
    ],
)
def test_padding_becomes_air(
    tmp_path: Path, intercept: str, padding: int | None, stored: int, expected: int
) -> None:
    def pad(dataset: FileDataset, _: int) -> None:
        dataset.RescaleIntercept = intercept
        if padding is not None:
            dataset.PixelPaddingValue = padding
        dataset.PixelData = stored.to_bytes(2, "little") + dataset.PixelData[2:]

    volume = load_series(only_candidate(write_ct(tmp_path, change=pad))).volume
    assert volume.dtype == np.int16
    assert (volume.array[:, 0, 0] == expected).all()
    assert (volume.array[:, 1, 1] >= -1024).all()


def test_fractional_slope_gives_float(tmp_path: Path) -> None:
    volume = load_series(only_candidate(write_ct(tmp_path, change=setting(RescaleSlope="0.5")))).volume
    assert volume.dtype == np.float32
    assert volume.array[0, 0, 1] == pytest.approx(501 * 0.5 - 1024)


def test_a_broken_pixel_stream_names_its_file(tmp_path: Path) -> None:
    paths = write_ct(tmp_path)
    candidate = only_candidate(paths)
    paths[4].write_bytes(paths[4].read_bytes()[:-300])
    with pytest.raises(SightlineError, match=paths[4].name):
        load_series(candidate)


def test_values_without_air_or_fat_are_no_hounsfield_units(tmp_path: Path) -> None:
    candidate = only_candidate(write_ct(tmp_path, change=setting(RescaleIntercept="0")))
    with pytest.raises(
        SightlineError, match=r"series 3 'TEST': values run from 500 to 1004; .* these are none"
    ):
        load_series(candidate)


def _upper_bits(dataset: FileDataset, k: int) -> None:
    """12 bits at the top of 16, as old scanners have it."""
    dataset.BitsStored, dataset.HighBit = 12, 15
    dataset.PixelData = (stored_values(k, 16, 20) << 4).tobytes()


def _overlay_bits(dataset: FileDataset, k: int) -> None:
    """12 bits, and an overlay in the unused ones above."""
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.add_new((0x6000, 0x0102), "US", 13)
    dataset.PixelData = (stored_values(k, 16, 20) | 0x2000).tobytes()


def _signed(dataset: FileDataset, k: int) -> None:
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, "0"
    dataset.PixelData = (stored_values(k, 16, 20).astype("<i2") - 1024).tobytes()


def _signed_upper_bits(dataset: FileDataset, k: int) -> None:
    _signed(dataset, k)
    dataset.BitsStored, dataset.HighBit = 12, 15
    dataset.PixelData = ((stored_values(k, 16, 20).astype("<i2") - 1024) << 4).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        _upper_bits,
        _overlay_bits,
        _signed,
        _signed_upper_bits,
        setting(PhotometricInterpretation="MONOCHROME1"),
    ],
)
def test_odd_bits_give_the_same_hounsfield_units(
    tmp_path: Path, change: Callable[[FileDataset, int], None]
) -> None:
    volume = load_series(only_candidate(write_ct(tmp_path, change=change))).volume
    for k in range(12):
        assert (volume.array[k] == stored_values(k, 16, 20).astype(int) - 1024).all()


def test_files_that_are_no_dicom_are_counted(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "empty").touch()
    survey = survey_files([tmp_path / "readme.txt", tmp_path / "empty", *write_ct(tmp_path / "ct")])
    assert survey.n_other == 2
    assert len(survey.candidates) == 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom warns of each bad value
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_headers_never_raise_anything_unexpected(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_ct(Path(folder), n_slices=1)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(132, len(content) - 700))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(200, len(content)))])
        survey = survey_files([path])
    assert not survey.candidates
    assert len(survey.refusals) + len(survey.unreadable) + survey.n_other == 1


@pytest.mark.slow
def test_three_hundred_slices_load_in_less_than_a_gibibyte(tmp_path: Path) -> None:
    paths = write_ct(tmp_path, n_slices=300, rows=512, columns=512, spacing=(1.25, 0.8, 0.8))
    candidate = only_candidate(paths)
    tracemalloc.start()
    loaded = load_series(candidate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded.volume.shape == (300, 512, 512)
    assert peak < 1 << 29
