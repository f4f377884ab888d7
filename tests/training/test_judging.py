"""The verdict on hand-made readings of a benchmark patient."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest

from core_model.abnormality import abnormalities
from core_model.anatomy import organ
from core_model.reading import Finding, Lesion, ModelIdentity, Reading, StudyEncoding
from core_model.thresholds import Thresholds
from training.benchmark import Case, cases
from training.judging import (
    CandidateRecord,
    PlantedRecord,
    bare,
    detection_score,
    dice,
    judge,
    organ_dice,
    scored,
    verdict,
)
from training.phantoms.tissues import PlantedLesion

SEED = 77
BARE = bare(Thresholds())


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
    found = reading_of(case, ("liver_tumour", 0.9, cube(12, 15)), ("liver_tumour", 0.7, cube(17, 19)))
    result = verdict(judge(case, found), BARE)
    assert [(p.found, p.dice) for p in result.planted] == [(True, 1.0), (True, 1.0)]
    assert [(q.score, q.true) for q in result.reported] == [(0.9, True), (0.7, True)]
    assert result.organ_dice == {"liver": 1.0}


def test_only_tumours_are_judged_as_lesions(case: Case) -> None:
    result = verdict(judge(case, reading_of(case)), BARE)
    assert [p.abnormality for p in result.planted] == ["liver_tumour", "liver_tumour"]
    assert not any(p.found for p in result.planted)
    assert all(p.dice == 0 for p in result.planted)


def test_overlap_counts_and_a_miss_is_false(case: Case) -> None:
    found = reading_of(case, ("liver_tumour", 0.9, cube(14, 16)), ("liver_tumour", 0.6, cube(2, 4)))
    result = verdict(judge(case, found), BARE)
    first, second = result.planted
    # One voxel of 27 is shared: less than a tenth.
    assert not first.found
    assert first.dice == pytest.approx(2 / (27 + 8))
    assert not second.found
    assert [q.true for q in result.reported] == [True, False]


def test_another_type_does_not_find_it(case: Case) -> None:
    result = verdict(judge(case, reading_of(case, ("renal_tumour", 0.9, cube(12, 15)))), BARE)
    assert not any(p.found for p in result.planted)
    assert [q.true for q in result.reported] == [False]


def test_findings_get_their_truth_and_undetermined_organs_are_left_out(case: Case) -> None:
    result = verdict(judge(case, reading_of(case)), BARE)
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


def test_a_threshold_takes_back_what_scores_less(case: Case) -> None:
    found = reading_of(case, ("liver_tumour", 0.9, cube(12, 15)), ("liver_tumour", 0.7, cube(17, 19)))
    record = judge(case, found)
    strict = Thresholds(lesion={"liver_tumour": 0.8}, present_from=0.95, absent_below=0.85)
    result = verdict(record, strict)
    assert [p.found for p in result.planted] == [True, False]
    assert [q.score for q in result.reported] == [0.9]
    raised = {f.abnormality: (f.probability, f.status) for f in result.findings}
    assert raised["liver_tumour"] == (0.9, "present")  # by its lesion, above the bare 0.8
    assert raised["liver_cyst"] == (0.8, "absent")
    nothing = verdict(record, Thresholds(lesion={"liver_tumour": 0.95}, present_from=0.75))
    assert nothing.reported == ()
    assert {f.status for f in nothing.findings} == {"present"}


def test_the_mask_of_a_planted_lesion_is_found_at_the_score_that_covers_a_tenth() -> None:
    planted = PlantedRecord("liver_tumour", 20.0, 1, voxels=100)
    candidates = (
        CandidateRecord("liver_tumour", 0.9, 50, {1: 5}),
        CandidateRecord("liver_tumour", 0.7, 50, {1: 5, 2: 9}),
        CandidateRecord("renal_tumour", 0.99, 50, {1: 50}),
    )
    assert detection_score(planted, candidates) == 0.7
    assert detection_score(planted, candidates[:1]) == float("-inf")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_is_applied_as_the_reader_does(case: Case, temperature: float) -> None:
    assert BARE.temperature == bare(Thresholds(temperature=7.0, offset={"liver_cyst": 1.0})).temperature == 1
    own = Thresholds(temperature=temperature, offset={"liver_cyst": -1.5})
    result = verdict(judge(case, reading_of(case)), own)
    logit = np.log(0.8 / 0.2)  # of the reading's findings
    found = {f.abnormality: f.probability for f in result.findings}
    for name, offset in (("liver_tumour", 0.0), ("liver_cyst", -1.5)):
        assert found[name] == pytest.approx(1 / (1 + np.exp(-(logit + offset) / temperature)))


def test_offsets_move_scores_and_what_is_reported(case: Case) -> None:
    record = judge(
        case, reading_of(case, ("liver_tumour", 0.6, cube(12, 15)), ("lung_nodule", 0.6, cube(2, 4)))
    )
    thresholds = replace(BARE, lesion={"liver_tumour": 0.5}, lesion_offset={"liver_tumour": -1.0})
    moved = scored(record, thresholds)
    assert [c.score for c in moved.candidates] == [pytest.approx(0.3556, abs=1e-4), 0.6]
    assert [q.abnormality for q in verdict(moved, thresholds).reported] == ["lung_nodule"]
    warm = scored(record, replace(thresholds, lesion_temperature={"liver_tumour": 2.0}))
    assert warm.candidates[0].score == pytest.approx(1 / (1 + np.exp(-(np.log(1.5) - 1.0) / 2)))
    assert bare(thresholds).lesion_offset is bare(thresholds).lesion_temperature is None
    assert replace(moved, candidates=record.candidates) == record
