"""Affines, label maps and tables as files bring them: any orientation, any cell."""

from __future__ import annotations

import csv
import struct
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core_model.anatomy import organ
from training.datasets.files import (
    GRID_DIFFERS,
    Tables,
    niftis,
    on_grid,
    read_ct,
    read_lines,
    read_mask,
    read_rows,
    read_totalsegmentator,
    relabelled,
    truth,
    volume_of,
)
from training.datasets.miniature_cases import save_nifti
from training.datasets.sample import Problem, UnusableSampleError
from training.phantoms.tissues import tissue

AXES = [
    "".join(a)
    for a in (
        *(("L", "P", "H"), ("R", "A", "H"), ("H", "P", "L"), ("F", "A", "R"), ("P", "H", "L")),
        *(("A", "L", "F"), ("R", "F", "P"), ("L", "H", "A")),
    )
]


def grid(shape: tuple[int, int, int] = (4, 5, 6)) -> hd.VolumeGeometry:
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 1.5], [0, 2.0, 0], [3.0, 0, 0]]
    affine[:3, 3] = [-12, 30, -700]
    return hd.VolumeGeometry(affine, shape, coordinate_system="PATIENT")


@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    tilt=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.004, 0.004)),
)
def test_each_voxel_stays_where_its_file_puts_it(
    order: list[int],
    signs: tuple[int, int, int],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    tilt: tuple[float, float],
) -> None:
    """Any order and direction of axes, oblique or not, with the small shear that headers have."""
    angle, skew = tilt
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    directions = turn @ np.eye(3)[:, list(order)] * np.array(signs)
    bent = directions + skew * np.roll(directions, 1, axis=1)
    affine = np.eye(4)
    affine[:3, :3] = bent * np.array(spacing)
    affine[:3, 3] = origin
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    volume = volume_of(array, affine)
    np.testing.assert_allclose(sorted(volume.spacing), sorted(np.linalg.norm(affine[:3, :3], axis=0)))
    # The body's axis comes first, from the feet; then to the back; then to the left.
    direction = volume.direction
    assert direction[2, 0] > 0.8
    assert direction[1, 1] > 0.8
    assert direction[0, 2] > 0.8
    indices = np.argwhere(array >= 0)  # all
    lps = (indices @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
    at = volume.map_reference_to_indices(lps)
    assert np.abs(at - np.rint(at)).max() < 0.4  # the shear moves a voxel by less
    np.testing.assert_array_equal(volume.array[tuple(np.rint(at).astype(int).T)], array[tuple(indices.T)])


@pytest.mark.parametrize(
    ("affine", "kind"),
    [
        (np.diag([1.0, 1.0, 0.0, 1.0]), "image has no usable affine"),
        (np.full((4, 4), np.nan), "image has no usable affine"),
        (np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "image is sheared"),
    ],
)
def test_an_affine_that_describes_no_ct_is_refused(affine: np.ndarray, kind: str) -> None:
    with pytest.raises(UnusableSampleError) as caught:
        volume_of(np.zeros((3, 3, 3)), affine)
    assert caught.value.kind == kind


@pytest.mark.parametrize("axes", AXES)
def test_ct_and_mask_meet_whichever_way_each_runs(axes: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    hu = rng.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    labels = rng.integers(0, 118, (4, 5, 6)).astype(np.uint8)
    save_nifti(tmp_path / "ct.nii.gz", hu, grid(), axes)
    save_nifti(tmp_path / "mask.nii.gz", labels, grid(), AXES[::-1][AXES.index(axes)])
    volume = read_ct(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(volume.array, hu)
    np.testing.assert_allclose(volume.affine, grid().affine, atol=1e-4)
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", volume), labels)
    organs = read_totalsegmentator(tmp_path / "mask.nii.gz", volume)
    assert organs.flags.c_contiguous
    np.testing.assert_array_equal(organs == organ("liver").label, labels == tissue("liver"))


def test_a_mask_of_another_grid_is_refused(tmp_path: Path) -> None:
    volume = hd.Volume(np.zeros((4, 5, 6), np.float32), grid().affine, coordinate_system="PATIENT")
    shifted = grid().affine.copy()
    shifted[2, 3] += 3.0
    ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    with pytest.raises(UnusableSampleError, match=GRID_DIFFERS):
        on_grid(np.zeros((4, 5, 6)), ras @ shifted, volume)
    with pytest.raises(UnusableSampleError, match=GRID_DIFFERS):
        on_grid(np.zeros((4, 5, 7)), ras @ grid().affine, volume)


def test_stored_values_and_spacing_of_a_table_are_applied(tmp_path: Path) -> None:
    save_nifti(tmp_path / "ct.nii.gz", np.full((4, 5, 6), 1034, np.int16), grid())
    volume = read_ct(tmp_path / "ct.nii.gz", slope=2, intercept=-1024, spacing_mm=(0.5, 0.75, 5.0))
    assert volume.array.dtype == np.float32
    assert (volume.array == 1044).all()
    assert volume.spacing == pytest.approx((5.0, 0.75, 0.5))  # the file's axes run L, P, H


def test_the_header_s_own_scaling_holds(tmp_path: Path) -> None:
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), 512, np.int16), np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = struct.pack("<ff", 2.0, -1024.0)  # scl_slope, scl_inter
    path.write_bytes(raw)
    assert (read_ct(path).array == 0).all()


def test_what_is_no_ct_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_bytes(b"not a volume")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), tmp_path / "series.nii.gz")
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii.gz")
    kinds = {}
    for path in (*niftis(tmp_path), tmp_path / "missing.nii.gz"):
        with pytest.raises(UnusableSampleError) as caught:
            read_ct(path)
        kinds[path.name.partition(".")[0]] = caught.value.kind
        assert str(tmp_path) not in str(caught.value)
    assert kinds == {
        "text": "image is unreadable",
        "series": "image is not three-dimensional",
        "nan": "image holds values that are no numbers",
        "missing": "image is unreadable",
    }


def test_a_volume_of_four_axes_with_one_time_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5, 1), np.int16), np.eye(4)), tmp_path / "ct.nii.gz")
    assert read_ct(tmp_path / "ct.nii.gz").spatial_shape == (5, 4, 3)


@pytest.mark.parametrize("bad", [np.array([[[0.5]]]), np.array([[[-1]]]), np.array([[[900]]])])
def test_values_that_are_no_labels_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(UnusableSampleError):
        relabelled(bad, {5: 21})


CELLS = st.sampled_from(["1", "0", "-1", "", "1.0", "0.0", "nan", "True", "false", " 1", "yes", "2", "x"])


@given(st.dictionaries(st.sampled_from(["Emphysema", "Atelectasis", "Lung nodule"]), CELLS))
def test_labels_know_what_is_one_or_nought_and_nothing_else(row: dict[str, str]) -> None:
    vocabulary = ("Emphysema", "Atelectasis", "Lung nodule")
    found = truth(row, vocabulary)
    for name in vocabulary:
        cell = row.get(name, "").strip().lower()
        if cell in {"1", "1.0", "true"}:
            assert found[name] is True
        elif cell in {"0", "0.0", "false"}:
            assert found[name] is False
        else:
            assert name not in found


LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])
# A field of spaces alone is a name to nobody.
FIELDS = st.text(LETTERS, min_size=1, max_size=9).filter(
    lambda t: t.strip() and not t.endswith((".nii", ".gz"))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.tuples(FIELDS, st.text(LETTERS, max_size=20)), max_size=6))
def test_any_text_survives_a_table(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    path = tmp_path / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "report"), *rows])
    problems: list[Problem] = []
    found = Tables(problems).read(path, "name", ("report",))
    expected: dict[str, str] = {}
    for name, report in rows:
        expected.setdefault(name.strip(), report)
    assert {name: row["report"] for name, row in found.items()} == expected
    assert len(problems) == len(rows) - len(expected)


def test_tables_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    problems: list[Problem] = []
    tables = Tables(problems)
    (tmp_path / "other.csv").write_text("id,text\na,b\n", encoding="utf-8")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00name\n")
    assert tables.read(tmp_path / "none.csv", "name") == {}
    assert tables.read(tmp_path / "other.csv", "name") == {}
    assert tables.read(tmp_path / "binary.csv", "name") == {}
    assert [(p.name, p.kind) for p in problems] == [
        ("none.csv", "table is missing"),
        ("other.csv", "table lacks a column"),
        ("binary.csv", "table is unreadable"),
    ]


def test_a_short_row_has_empty_cells_and_a_tsv_has_tabs(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\tb\n1\n2\t3,4\n", encoding="utf-8")
    assert list(read_rows(tmp_path / "t.tsv")) == [{"a": "1", "b": ""}, {"a": "2", "b": "3,4"}]


def test_a_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("valid_1_a_1.nii.gz\n\n valid_2_a_1 \n", encoding="utf-8")
    assert read_lines(tmp_path / "l.txt") == {"valid_1_a_1", "valid_2_a_1"}
    assert read_lines(tmp_path / "none.txt") == frozenset()
