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
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import EnhancedCTImageStorage, SegmentationStorage

from dicom_node.errors import SightlineError
from dicom_node.series import CandidateSeries, choose_series, kernel_softness, survey_files
from dicom_node.series_geometry import GeometryError, stack_slices
from dicom_node.series_pixels import load_series
from tests.dicom_node.ct_files import ROOT, stored_values, write_ct

Changes = dict[str, object]


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
    stack = stack_slices(positions, np.tile(rotation[:, :2].T.ravel(), (20, 1)), (1, 1))
    assert stack.order == tuple(range(20))
    assert abs(stack.spacing_mm - spacing) < 0.01


@settings(deadline=None)
@given(missing=st.integers(1, 18), spacing=st.floats(0.5, 8.0), rotation=rotations())
def test_a_missing_slice_is_never_bridged(
    missing: int, spacing: float, rotation: npt.NDArray[np.float64]
) -> None:
    heights = np.delete(np.arange(20), missing) * spacing
    positions = heights[:, None] * rotation[:, 2]
    with pytest.raises(GeometryError, match=f"after slice {missing}, .*1 slice missing"):
        stack_slices(positions, np.tile(rotation[:, :2].T.ravel(), (19, 1)), (1, 1))


@settings(deadline=None)
@given(degrees=st.floats(3, 30), spacing=st.floats(1, 8), rotation=rotations())
def test_tilt_is_found_from_positions_in_any_orientation(
    degrees: float, spacing: float, rotation: npt.NDArray[np.float64]
) -> None:
    step = rotation[:, 2] + np.tan(np.radians(degrees)) * rotation[:, 1]
    positions = np.arange(12)[:, None] * spacing * step
    with pytest.raises(GeometryError, match=f"gantry tilt of {degrees:.1f} degrees"):
        stack_slices(positions, np.tile(rotation[:, :2].T.ravel(), (12, 1)), (1, 1))


def _move_to_one_place(dataset: FileDataset, _: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 0]


def _two_phases(dataset: FileDataset, k: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 2.5 * (k // 2)]


def _turn_one(dataset: FileDataset, k: int) -> None:
    if k == 3:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


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
    (setting(SOPClassUID=EnhancedCTImageStorage), "multi-frame.* is not read yet"),
    (setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    (setting(ImageType=["DERIVED", "SECONDARY", "MIP"]), r"projection image \(MIP\)"),
    (setting(PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1 .inverted"),
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
        ("0", 40, 40, 40),  # declared, but it is tissue: not believed
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


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}),
        ({"ConvolutionKernel": "B31f"}, {"ConvolutionKernel": "B70f"}),
        ({"ConvolutionKernel": "STANDARD"}, {"ConvolutionKernel": "LUNG"}),
        ({"ContrastBolusAgent": "APPLIED"}, {}),
        ({"SeriesNumber": 2}, {"SeriesNumber": 5}),
    ],
)
def test_the_better_series_is_chosen(tmp_path: Path, better: Changes, worse: Changes) -> None:
    def change(values: Changes) -> Callable[[FileDataset, int], None]:
        def apply(dataset: FileDataset, k: int) -> None:
            setting(**values)(dataset, k)
            if "ImageOrientationPatient" in values:
                dataset.ImagePositionPatient = [0, 2.5 * k, 0]

        return apply

    paths = write_ct(tmp_path / "w", series=f"{ROOT}.20", change=change(worse))
    paths += write_ct(tmp_path / "b", series=f"{ROOT}.30", change=change(better))
    candidates = survey_files(paths).candidates
    assert len(candidates) == 2
    for order in (candidates, candidates[::-1]):
        assert choose_series(order).series_instance_uid == f"{ROOT}.30"


def test_more_body_beats_thinner_slices_and_thinner_beats_thicker(tmp_path: Path) -> None:
    thick = write_ct(tmp_path / "a", series=f"{ROOT}.1", n_slices=21, spacing=(5, 1, 1))
    thin = write_ct(tmp_path / "b", series=f"{ROOT}.2", n_slices=51, spacing=(2, 1, 1))
    short = write_ct(tmp_path / "c", series=f"{ROOT}.3", n_slices=31, spacing=(1, 1, 1))
    candidates = survey_files(thick + thin + short).candidates
    assert choose_series(candidates).series_instance_uid == f"{ROOT}.2"


def test_kernels_of_four_vendors() -> None:
    soft = ["B31f", "Br38\\3", "I30f", "FC18", "STANDARD", "SOFT", "B", "YA", "UB"]
    sharp = ["B60s", "Br64", "I70f", "FC52", "LUNG", "BONEPLUS", "L", "YC"]
    assert [kernel_softness(k) for k in soft] == [2] * len(soft)
    assert [kernel_softness(k) for k in sharp] == [0] * len(sharp)


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
