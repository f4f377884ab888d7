"""Procedural anatomy: deterministic, and where an anatomist expects it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.phantoms.procedural import procedural_anatomy
from training.phantoms.procedural_canvas import Canvas, rotation, smooth_noise, spline, tissue_values
from training.phantoms.tissues import AIR, FAT, MUSCLE, N_TISSUES, SKIN, TABLE, Anatomy

SPACING_MM = 4.0
SEEDS = (0, 1, 2, 3, 4)

# ml in an adult: below or above is no anatomy (textbook ranges, widened on purpose).
PLAUSIBLE_ML = {
    "liver": (700, 2800),
    "spleen": (20, 450),
    "kidney_right": (50, 350),
    "kidney_left": (50, 350),
    "pancreas": (25, 180),
    "gallbladder": (5, 110),
    "stomach": (100, 900),
    "urinary_bladder": (20, 500),
    "heart": (250, 1100),
    "aorta": (90, 500),
    "inferior_vena_cava": (40, 220),
    "lung_upper_lobe_left": (300, 1700),
    "lung_lower_lobe_left": (500, 2600),
    "lung_upper_lobe_right": (150, 1600),
    "lung_middle_lobe_right": (100, 900),
    "lung_lower_lobe_right": (500, 2600),
    "small_bowel": (400, 2500),
    "colon": (250, 2200),
    "hip_left": (150, 600),
    "sacrum": (70, 350),
    "vertebrae_L3": (25, 110),
    "iliopsoas_right": (150, 700),
}


@pytest.fixture(scope="module", params=SEEDS)
def anatomy(request: pytest.FixtureRequest) -> Anatomy:
    return procedural_anatomy(np.random.default_rng(request.param), SPACING_MM)


def centre(anatomy: Anatomy, *names: str) -> npt.NDArray[np.float64]:
    """Centre of gravity (z, y, x) of structures, voxels."""
    value = tissue_values()
    wanted = torch.tensor([value[n] for n in names], dtype=torch.uint8)
    where = torch.isin(anatomy.tissues, wanted).nonzero()
    assert len(where) > 0, f"{names} are missing"
    result: npt.NDArray[np.float64] = where.double().mean(0).numpy()
    return result


def test_same_generator_state_gives_the_same_anatomy() -> None:
    first, second = (procedural_anatomy(np.random.default_rng(11), 6.0) for _ in range(2))
    assert torch.equal(first.tissues, second.tissues)
    other = procedural_anatomy(np.random.default_rng(12), 6.0)
    assert other.tissues.shape != first.tissues.shape or not torch.equal(other.tissues, first.tissues)


def test_values_are_tissues(anatomy: Anatomy) -> None:
    assert anatomy.tissues.dtype == torch.uint8
    assert int(anatomy.tissues.max()) < N_TISSUES
    present = set(anatomy.tissues.unique().tolist())
    assert {AIR, FAT, MUSCLE, SKIN} <= present


def test_main_organs_have_plausible_volumes(anatomy: Anatomy) -> None:
    value = tissue_values()
    counts = torch.bincount(anatomy.tissues.flatten().long(), minlength=N_TISSUES)
    for name, (low, high) in PLAUSIBLE_ML.items():
        volume_ml = float(counts[value[name]]) * SPACING_MM**3 / 1000
        assert low <= volume_ml <= high, f"{name}: {volume_ml:.0f} ml"


def test_all_ribs_and_trunk_vertebrae_are_there(anatomy: Anatomy) -> None:
    value = tissue_values()
    present = set(anatomy.tissues.unique().tolist())
    names = [f"rib_{side}_{n}" for side in ("left", "right") for n in range(2, 13)]
    names += [f"vertebrae_{v}" for v in ("L5", "L4", "L3", "L2", "L1", "T12", "T8", "T4")]
    missing = [n for n in names if value[n] not in present]
    assert not missing


def test_sides_are_not_swapped(anatomy: Anatomy) -> None:
    """The third axis grows towards the patient's left; the spine is the midline."""
    spine = centre(anatomy, "vertebrae_L1", "vertebrae_T8")[2]
    for name in ("liver", "gallbladder", "inferior_vena_cava", "superior_vena_cava"):
        assert centre(anatomy, name)[2] < spine, f"{name} is not on the right"
    for name in ("spleen", "stomach", "heart"):
        assert centre(anatomy, name)[2] > spine, f"{name} is not on the left"
    present = set(anatomy.tissues.unique().tolist())
    for name, label in tissue_values().items():
        base = name.replace("_left", "")
        other = name.replace("left", "right")
        if base == name or "lobe" in name or other not in tissue_values() or "brachio" in name:
            continue
        if label in present and tissue_values()[other] in present:
            assert centre(anatomy, name)[2] > centre(anatomy, other)[2], f"{name} lies right of {other}"


def test_organs_lie_in_anatomical_order(anatomy: Anatomy) -> None:
    lungs = [n for n in tissue_values() if n.startswith("lung_")]
    assert centre(anatomy, *lungs)[0] > centre(anatomy, "liver")[0] > centre(anatomy, "urinary_bladder")[0]
    assert centre(anatomy, "lung_upper_lobe_left")[0] > centre(anatomy, "lung_lower_lobe_left")[0]
    levels = [f"vertebrae_{v}" for v in ("L5", "L4", "L3", "L2", "L1", "T12", "T10", "T6", "T3")]
    heights = [centre(anatomy, n)[0] for n in levels]
    assert heights == sorted(heights)
    assert centre(anatomy, "aorta")[1] < centre(anatomy, "vertebrae_T8", "vertebrae_L2")[1]
    assert centre(anatomy, "sternum")[1] < centre(anatomy, "heart")[1] < centre(anatomy, "vertebrae_T8")[1]
    assert centre(anatomy, "pancreas")[1] < centre(anatomy, "kidney_left", "kidney_right")[1]
    assert centre(anatomy, "kidney_right")[0] < centre(anatomy, "spleen")[0]


def test_lungs_end_above_the_liver_in_every_column(anatomy: Anatomy) -> None:
    value = tissue_values()
    right = [value[n] for n in value if n.startswith("lung_") and n.endswith("right")]
    lung = torch.isin(anatomy.tissues, torch.tensor(right, dtype=torch.uint8))
    liver = anatomy.tissues == value["liver"]
    both = lung.any(0) & liver.any(0)
    assert int(both.sum()) > 50
    index = torch.arange(anatomy.tissues.shape[0])[:, None, None]
    lowest_lung = torch.where(lung, index, 10_000).amin(0)[both]
    highest_liver = torch.where(liver, index, -1).amax(0)[both]
    assert float((lowest_lung > highest_liver).float().mean()) > 0.98


def test_body_is_wrapped_in_skin(anatomy: Anatomy) -> None:
    """No inner tissue touches air within a slice, lungs and bowel hold no air label."""
    air = anatomy.tissues == AIR
    inner = ~air & (anatomy.tissues != SKIN) & (anatomy.tissues != TABLE)
    for axis in (1, 2):
        n = anatomy.tissues.shape[axis]
        for first, second in ((0, 1), (1, 0)):
            touching = inner.narrow(axis, first, n - 1) & air.narrow(axis, second, n - 1)
            assert int(touching.sum()) == 0


def test_height_cuts_a_window() -> None:
    anatomy = procedural_anatomy(np.random.default_rng(5), 4.0, height_mm=160.0)
    assert abs(anatomy.tissues.shape[0] * 4.0 - 160.0) <= 4.0


@pytest.mark.parametrize(("spacing", "height"), [(0.5, None), (40.0, None), (3.0, 10.0)])
def test_nonsense_is_refused(spacing: float, height: float | None) -> None:
    with pytest.raises(ValueError, match="mm"):
        procedural_anatomy(np.random.default_rng(0), spacing, height)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    x=st.floats(-180, 180),
    y=st.floats(-180, 180),
    z=st.floats(-180, 180),
)
def test_rotations_keep_lengths(x: float, y: float, z: float) -> None:
    matrix = rotation(z, y, x).astype(np.float64)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
    assert np.isclose(np.linalg.det(matrix), 1, atol=1e-5)


def test_spline_passes_through_its_points() -> None:
    points = [(0.0, 0.0, 0.0, 1.0), (10.0, 5.0, 0.0, 2.0), (30.0, 0.0, 8.0, 3.0)]
    curve = spline(points, 2.0)
    for point in points:
        assert np.abs(curve - point).sum(1).min() < 1e-9


def test_noise_is_smooth_and_about_unit() -> None:
    noise = smooth_noise(np.random.default_rng(0), (40, 40, 40), (8, 8, 8))
    assert noise.shape == (40, 40, 40)
    assert 0.3 < float(noise.std()) < 1.5
    assert float(np.abs(np.diff(noise, axis=0)).max()) < float(np.ptp(noise)) / 4


def test_canvas_paints_an_ellipsoid_of_the_right_volume() -> None:
    canvas = Canvas(np.random.default_rng(0), (60, 60, 60), (-60, -60, -60), (2, 2, 2), bend_mm=0.0)
    canvas.ellipsoid(7, (0, 0, 0), (30, 20, 25), rough=0.0, over=(AIR,))
    volume = float((canvas.labels == 7).sum()) * 8
    assert volume == pytest.approx(4 / 3 * np.pi * 30 * 20 * 25, rel=0.02)
    canvas.ellipsoid(9, (0, 0, 45), (8, 8, 8), rough=0.0)
    assert not (canvas.labels == 9).any(), "only an explicit `over` may paint on air"
