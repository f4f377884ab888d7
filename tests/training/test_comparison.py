"""What two checkpoints found is compared by patient, and what nobody corrected is held."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch

from core_model.abnormality import abnormalities
from core_model.reading import Lesion, Reading
from core_model.thresholds import Thresholds
from core_model.verdict import Judged, Verdict
from tests.dicom_node.readings import make_reading
from tests.tiny import body_volume, tiny_model
from training.datasets.archive import CorrectedSegment, CorrectedStudy
from training.datasets.archive import Verdict as Mark
from training.retraining.comparison import Pair, StudyScore, measures, score
from training.retraining.comparison_report import markdown, write_report
from training.retraining.findings import FindingRecord, FindingTeacher

NAMES = [a.name for a in abnormalities()]
WHO = Judged("tiny", "1", "0" * 64, "1" * 64)


def study(volume: hd.Volume, labels: np.ndarray | None, *marks: Mark) -> CorrectedStudy:
    segments = (CorrectedSegment(1, "liver_tumour", "liver_tumour", "liver"),)
    return CorrectedStudy("x", volume, labels, segments if labels is not None and labels.any() else (), marks)


def test_a_reading_that_is_right_scores_one_and_misses_and_false_ones_count() -> None:
    volume = body_volume()
    reading = make_reading(volume)
    lesion = next(n for n in reading.lesions if n.type == "liver_tumour")
    truth = (reading.lesion_mask.array == lesion.label).astype(np.uint8)
    said = [
        Mark("liver", "liver_tumour", "present", "accept", "present"),
        Mark("kidneys", "renal_tumour", "present", "reject", "absent"),
    ]
    found = score(reading, study(volume, truth, *said))
    assert found.dice == (1.0,)
    assert (found.found, found.false, found.missed) == (1, 1, 0), "the renal lesion is in no outline"
    assert sorted(answer[1:] for answer in found.answers) == [(True, False), (True, True)]
    assert np.isnan(found.rest[NAMES.index("liver_tumour")])
    assert found.rest[NAMES.index("splenomegaly")] == pytest.approx(0.04)
    half = truth.copy()
    half[: int(np.argwhere(truth)[:, 0].mean())] = 0
    other = np.zeros_like(truth)
    other[-3:, :3, :3] = 1
    partly = score(reading, study(volume, half | other))
    assert 0 < partly.dice[0] < 1
    assert (partly.found, partly.missed) == (1, 1)
    emptied = score(reading, study(volume, np.zeros_like(truth)))
    assert (emptied.dice, emptied.false) == ((), 2)
    silent = score(reading, study(volume, None))
    assert (silent.dice, silent.found, silent.false, silent.missed) == ((), 0, 0, 0)
    assert isinstance(lesion, Lesion)
    assert isinstance(reading, Reading)


def scored(quality: float, rest: float = 0.2) -> StudyScore:
    hits = round(4 * quality)
    answers = ((quality, quality > 0.5, True), (1 - quality, quality <= 0.5, False))
    return StudyScore((quality,), hits, 4 - hits, 4 - hits, answers, np.full(len(NAMES), rest))


def verdict(pairs: list[Pair]) -> Verdict:
    found = measures(pairs, 200)
    return Verdict(WHO, WHO, tuple(found), len({p.patient for p in pairs}), 5, "made-up patients")


def pairs(base: float, new: float, rest: float = 0.2, n: int = 12) -> list[Pair]:
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.02, n)
    return [Pair(f"p{k}", scored(base + s), scored(new + s, rest)) for k, s in enumerate(spread)]


def test_better_is_promoted_and_worse_is_not(tmp_path: Path) -> None:
    better, worse, same = verdict(pairs(0.3, 0.8)), verdict(pairs(0.8, 0.3)), verdict(pairs(0.6, 0.6))
    assert better.promote
    assert same.promote
    assert not worse.promote
    assert {m.name for m in worse.measures if m.is_worse} == {
        "lesion Dice",
        "lesion detection F1",
        "agreement with verdicts",
        "findings AUC",
    }
    for one in better.measures:
        assert one.low <= one.difference <= one.high or one.name == "answers kept"
    files = write_report(worse, tmp_path)
    assert [f.name for f in files] == ["comparison.json", "comparison.md", "comparison.png"]
    assert "not promoted: lesion Dice fell" in markdown(worse)
    assert files[2].read_bytes()[:4] == b"\x89PNG"


def test_answers_that_nobody_corrected_may_not_move_far() -> None:
    assert verdict(pairs(0.3, 0.8, rest=0.23)).promote
    moved = verdict(pairs(0.3, 0.8, rest=0.5))
    assert not moved.promote
    assert "answers kept fell" in moved.objections[0]


def test_two_studies_of_one_patient_are_one_patient() -> None:
    twice = [replace(p, patient="same") for p in pairs(0.3, 0.8)]
    found = verdict(twice)
    assert found.patients == 1
    assert not found.promote
    assert all(m.low == m.high for m in found.measures)
    assert measures([], 10) == []


def records(truth: float) -> list[FindingRecord]:
    rng = torch.Generator().manual_seed(3)
    entries = len(NAMES)
    found = []
    for _ in range(6):
        organ = torch.nn.functional.normalize(torch.randn(entries, 16, generator=rng), dim=-1)
        known = torch.full((entries,), -1.0)
        known[NAMES.index("gallstones")] = truth
        found.append(
            FindingRecord(organ, torch.randn(entries, generator=rng), torch.ones(entries).bool(), known)
        )
    return found


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_verdicts_are_learnt_and_the_rest_is_held(truth: float) -> None:
    base = tiny_model()
    taught = records(truth)
    teacher = FindingTeacher(base, base, taught, taught, Thresholds())
    start = {name: float(value.detach()) for name, value in teacher.losses().items()}
    assert start["kept"] == pytest.approx(0, abs=1e-6)
    assert start["texts"] == pytest.approx(0, abs=1e-6)
    history = teacher.teach(60, 3e-3)
    assert history[-1]["verdicts"] < 0.7 * start["verdicts"]
    assert history[-1]["kept"] < 0.02
    assert history[-1]["texts"] < 0.02
    same = {n for n, v in teacher.model.state_dict().items() if torch.equal(v, base.state_dict()[n])}
    assert {n.split(".")[0] for n in base.state_dict() if n not in same} <= {
        "text_to_joint",
        "prompt_scale",
        "evidence",
    }
