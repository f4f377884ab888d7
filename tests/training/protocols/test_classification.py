"""Prompts to scores and scores to figures, against the published formulas in scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, roc_auc_score, roc_curve

from core_model.abnormality import abnormality
from core_model.anatomy import organ
from training.bootstrap import bootstrap
from training.mining.concepts import CT_RATE, concepts
from training.prompts import _AGAINST, _FOR
from training.protocols.classification import (
    Classification,
    Scored,
    merge_calcification,
    prompt_vectors,
    softmax_scores,
)
from training.protocols.curves import YOUDEN
from training.protocols.published import (
    CT_CLIP,
    CT_RATE_LABELS,
    FVLM,
    FVLM_LABELS,
    FVLM_ORGANS,
    MERGED_LABELS,
    OWN_FINDINGS,
    RADFINDER,
)


def test_labels_are_those_of_the_set_in_its_order() -> None:
    assert tuple(c.name for c in concepts(CT_RATE)) == CT_RATE_LABELS
    assert (len(CT_RATE_LABELS), len(FVLM_LABELS), len(MERGED_LABELS)) == (18, 16, 16)
    # CT-CLIP drops indices 4 and 13.
    assert tuple(x for i, x in enumerate(CT_RATE_LABELS) if i not in (4, 13)) == MERGED_LABELS


def test_what_labels_point_to_exists() -> None:
    assert set(FVLM_ORGANS) == set(FVLM_LABELS)
    assert {organ(name).name for name in FVLM_ORGANS.values()} == {"lung", "heart", "esophagus", "aorta"}
    assert all(label in CT_RATE_LABELS and abnormality(own) for label, own in OWN_FINDINGS.items())


def test_prompts_word_by_word() -> None:
    assert CT_CLIP.texts("Hiatal hernia") == (
        ("Hiatal hernia is present.",),
        ("Hiatal hernia is not present.",),
    )
    assert FVLM.texts("Hiatal hernia") == (("Hiatal hernia.",), ("Not hiatal hernia.",))
    yes, no = RADFINDER.texts("Emphysema")
    assert (len(yes), len(no)) == (7, 7)
    assert (yes[0], no[0], yes[4], no[4]) == ("Emphysema.", "No Emphysema.", "Emphysema.", "Not Emphysema.")
    # The model's own prompts were made after these.
    assert {t for t, _ in RADFINDER.pairs} == set(_FOR)
    assert {t for _, t in RADFINDER.pairs} - set(_AGAINST) == {"{a} is not observed."}


def letters(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Unit vectors that differ from text to text: how often each of 26 letters occurs."""
    counts = np.array([[t.lower().count(chr(97 + i)) for i in range(26)] for t in texts], dtype=np.float32)
    return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True), dtype=np.float32)


def test_templates_are_averaged_and_made_unit_length() -> None:
    present, absent = prompt_vectors(["Emphysema", "Lung nodule"], RADFINDER, letters)
    assert np.linalg.norm(present, axis=1) == pytest.approx([1, 1], abs=1e-6)
    yes, no = RADFINDER.texts("Lung nodule")
    total = np.stack([letters([t])[0] for t in no]).mean(0)
    assert absent[1] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)
    assert not np.allclose(present[1], absent[1])
    assert len(yes) == len(no)


def test_score_is_the_softmax_over_two_similarities() -> None:
    rng = np.random.default_rng(1)
    yes, no = rng.normal(size=(2, 5, 3)) * 30
    expected = softmax(7.0 * np.stack([yes, no], axis=-1), axis=-1)[..., 0]
    assert softmax_scores(yes, no, 7.0) == pytest.approx(expected)
    assert softmax_scores([1e4], [-1e4]).tolist() == [1.0]


def test_calcification_takes_the_greater_score() -> None:
    scores = np.random.default_rng(2).random((4, 18))
    found = merge_calcification(scores, CT_RATE_LABELS, MERGED_LABELS)
    # CT-CLIP: indices 4 and 13 dropped, index 1 the maximum of 1 and 4.
    merged = scores.copy()
    merged[:, 1] = np.maximum(scores[:, 1], scores[:, 4])
    assert found == pytest.approx(np.delete(merged, (4, 13), axis=1))
    assert merge_calcification(scores, CT_RATE_LABELS, CT_RATE_LABELS) == pytest.approx(scores)


def made_up(count: int = 60) -> Scored:
    rng = np.random.default_rng(5)
    truth = rng.random((count, 4)) < [0.5, 0.2, 0.1, 0.0]
    return Scored(("a", "b", "c", "never"), np.round(truth * 0.3 + rng.random((count, 4)), 2), truth)


def test_means_are_radfinders() -> None:
    """`evaluate_chexzero` in scikit-learn: labels of one kind are left out of every mean."""
    scored = made_up()
    found = Classification(scored, YOUDEN).figures(np.ones(60))
    areas, precisions, weighted, balanced = [], [], [], []
    for i in range(3):
        truth, score = scored.truth[:, i], scored.scores[:, i]
        areas.append(roc_auc_score(truth, score))
        false, true, levels = roc_curve(truth, score)
        said = score >= levels[np.argmax(true - false)]
        precisions.append(precision_score(truth, said, zero_division=0))
        weighted.append(f1_score(truth, said, average="weighted", zero_division=0))
        balanced.append(balanced_accuracy_score(truth, said))
    assert found["macro/auroc"] == pytest.approx(np.mean(areas))
    assert found["macro/test_threshold/precision"] == pytest.approx(np.mean(precisions))
    assert found["macro/test_threshold/f1_weighted"] == pytest.approx(np.mean(weighted))
    assert found["macro/test_threshold/balanced_accuracy"] == pytest.approx(np.mean(balanced))
    assert "never/auroc" not in found
    assert Classification(scored, YOUDEN).judged() == ("a", "b", "c")


def test_thresholds_of_development_patients_are_kept_in_every_draw() -> None:
    scored = made_up()
    judged = Classification(scored, YOUDEN, {"a": 0.75, "b": 0.75, "of another protocol": 0.1})
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60)).astype(float)
    found = judged.figures(weights)
    said = scored.scores[:, 0] >= 0.75
    expected = f1_score(scored.truth[:, 0], said, average="weighted", sample_weight=weights)
    assert found["a/development_threshold/f1_weighted"] == pytest.approx(expected)
    assert "c/development_threshold/f1_weighted" not in found
    both = [found[f"{x}/development_threshold/accuracy"] for x in "ab"]
    assert found["macro/development_threshold/accuracy"] == pytest.approx(np.mean(both))


def test_a_threshold_chosen_on_the_test_items_flatters() -> None:
    """Scores without knowledge: a threshold from the test items beats one half, one from others does not."""
    rng = np.random.default_rng(11)
    truth = rng.random((400, 1)) < 0.5
    scored = Scored(("a",), rng.random((400, 1)), truth)
    other = Scored(("a",), rng.random((400, 1)), rng.random((400, 1)) < 0.5)
    found = Classification(scored, YOUDEN, other.thresholds(YOUDEN)).figures(np.ones(400))
    test, held_out = (found[f"macro/{x}_threshold/balanced_accuracy"] for x in ("test", "development"))
    assert test is not None
    assert held_out is not None
    assert test > 0.51
    assert abs(held_out - 0.5) < test - 0.5 + 0.03


def test_intervals_hold_the_figure() -> None:
    scored = made_up()
    estimate = bootstrap(Classification(scored, YOUDEN).figures, 60, 200)["macro/auroc"]
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < estimate.value < estimate.high
