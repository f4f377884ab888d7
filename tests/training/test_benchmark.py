"""The phantom benchmark: its cases, and the verdict on hand-made readings."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.reader import Reader
from core_model.reading import Finding, Lesion, ModelIdentity, Reading, StudyEncoding
from tests.tiny import tiny_checkpoint
from training.benchmark import (
    DEVELOPMENT_SEED,
    TEST_SEED,
    Case,
    cases,
    dice,
    judge,
    organ_dice,
    read_cases,
)
from training.phantoms.tissues import PlantedLesion

SEED = 77


@pytest.fixture(scope="module")
def case() -> Case:
    """A patient of the benchmark, with two liver tumours and a renal cyst put in by hand."""
    [made] = cases(SEED, 1, spacing_mm=8.0)
    shape = made.volume.spatial_shape
    organs, lesions = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    organs[10:20, 10:20, 10:20] = organ("liver").label
    lesions[12:15, 12:15, 12:15] = 1
    lesions[17:19, 17:19, 17:19] = 2
    lesions[12, 18, 12] = 3
    planted = (
        PlantedLesion("liver_tumour", "liver", "", (13, 13, 13), 26.0, 1),
        PlantedLesion("liver_tumour", "liver", "", (17.5, 17.5, 17.5), 20.0, 2),
        PlantedLesion("renal_cyst", "kidneys", "left", (12, 18, 12), 9.0, 3),
        PlantedLesion("hepatic_steatosis", "liver", "", (0, 0, 0), 0.0, 0),
    )
    return replace(made, organs=organs, lesions=lesions, phantom=replace(made.phantom, planted=planted))


def reading_of(case: Case, *found: tuple[str, float, tuple[slice, slice, slice]]) -> Reading:
    """A reading with the given (type, score, box) lesions, and a perfect liver."""
    mask = np.zeros(case.volume.spatial_shape, np.uint8)
    lesions = []
    for label, (kind, score, box) in enumerate(found, start=1):
        mask[box] = label
        lesions.append(Lesion(label, "liver", kind, score, 1.0, 10.0, 8.0, 40.0, (0.0, 0.0, 0.0)))
    findings = [
        Finding(a.organ, a.name, 0.8 if a.organ == "liver" else None, "undetermined", None)
        for a in abnormalities()
    ]
    grid = hd.VolumeGeometry(np.eye(4), spatial_shape=(1, 1, 1), coordinate_system="PATIENT")
    model = ModelIdentity("hand-made", "0", "0" * 64)
    empty = np.zeros((1, 1), np.float32)
    encoding = StudyEncoding(
        global_feature=empty[0],
        organ_features=empty,
        organ_present=np.zeros(36, bool),
        slab_features=empty,
        slab_centres_mm=empty,
        grid=grid,
        grid_features=np.zeros((1, 1, 1, 1), np.float16),
        grid_organs=np.zeros((1, 1, 1), np.uint8),
        slices=(),
        model=model,
    )
    return Reading(
        organs=(),
        findings=tuple(findings),
        lesions=tuple(lesions),
        organ_mask=case.volume.with_array(case.organs),
        lesion_mask=case.volume.with_array(mask),
        encoding=encoding,
        model=model,
    )


def cube(start: int, stop: int) -> tuple[slice, slice, slice]:
    return (slice(start, stop),) * 3


def test_a_perfect_reading(case: Case) -> None:
    result = judge(
        case, reading_of(case, ("liver_tumour", 0.9, cube(12, 15)), ("liver_tumour", 0.7, cube(17, 19)))
    )
    assert [(p.found, p.dice) for p in result.planted] == [(True, 1.0), (True, 1.0)]
    assert [(q.score, q.true) for q in result.reported] == [(0.9, True), (0.7, True)]
    assert result.organ_dice == {"liver": 1.0}


def test_only_tumours_are_judged_as_lesions(case: Case) -> None:
    result = judge(case, reading_of(case))
    assert [p.abnormality for p in result.planted] == ["liver_tumour", "liver_tumour"]
    assert not any(p.found for p in result.planted)
    assert all(p.dice == 0 for p in result.planted)


def test_overlap_counts_and_a_miss_is_false(case: Case) -> None:
    result = judge(
        case, reading_of(case, ("liver_tumour", 0.9, cube(14, 16)), ("liver_tumour", 0.6, cube(2, 4)))
    )
    first, second = result.planted
    # One voxel of 27 is shared: less than a tenth.
    assert not first.found
    assert first.dice == pytest.approx(2 / (27 + 8))
    assert not second.found
    assert [q.true for q in result.reported] == [True, False]


def test_another_type_does_not_find_it(case: Case) -> None:
    result = judge(case, reading_of(case, ("renal_tumour", 0.9, cube(12, 15))))
    assert not any(p.found for p in result.planted)
    assert [q.true for q in result.reported] == [False]


def test_findings_get_their_truth_and_undetermined_organs_are_left_out(case: Case) -> None:
    result = judge(case, reading_of(case))
    truth = {f.abnormality: f.truth for f in result.findings}
    expected = {
        a.name: a.name in ("liver_tumour", "hepatic_steatosis") for a in abnormalities() if a.organ == "liver"
    }
    assert truth == expected


def test_dice_of_known_masks() -> None:
    a = np.array([True, True, False, False])
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a, np.array([True, False, False, False])) == pytest.approx(2 / 3)
    assert dice(a & False, a & False) == 1


def test_organ_dice_leaves_small_organs_out() -> None:
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[0], truth[1, 0, 0] = organ("liver").label, organ("spleen").label
    predicted = np.where(truth == organ("liver").label, truth, 0).astype(np.uint8)
    assert organ_dice(predicted, truth) == {"liver": 1.0, "spleen": 0.0}
    assert organ_dice(predicted, truth, min_voxels=2) == {"liver": 1.0}


def test_cases_are_reproducible_scans_with_their_truth() -> None:
    [a], [b] = (list(cases(SEED, 1, spacing_mm=8.0)) for _ in range(2))
    np.testing.assert_array_equal(a.volume.array, b.volume.array)
    assert a.seed == SEED
    assert a.organs.shape == a.lesions.shape == a.volume.spatial_shape
    assert {p.mask_value for p in a.phantom.planted} - {0} >= set(np.unique(a.lesions)) - {0}
    lungs = a.volume.array[a.organs == organ("lung").label]
    livers = a.volume.array[a.organs == organ("liver").label]
    assert np.median(lungs) < -400
    assert 0 < np.median(livers) < 250


def test_seeds_for_tests_and_development_are_apart() -> None:
    assert abs(TEST_SEED - DEVELOPMENT_SEED) > 100_000


def test_a_reader_is_judged_case_by_case(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.benchmark.cases", lambda first, n: cases(first, n, spacing_mm=8.0))
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_checkpoint(folder)
    [result] = read_cases(Reader.load(folder, "cpu"), SEED, 1)
    assert "liver" in result.organ_dice
    assert all(0 <= v <= 1 for v in result.organ_dice.values())
