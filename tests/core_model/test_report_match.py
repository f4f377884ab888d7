"""What a report states, and how well that fits what a scan shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.checkpoint import load_checkpoint
from core_model.report_match import (
    DENIED_OUTSIDE,
    NOT_MENTIONED,
    PRIOR,
    STATED_OUTSIDE,
    report_vector,
    scan_vector,
)
from core_model.statements import Statement, Statements

NAMES = ["gallstones", "liver_cyst", "lung_nodule"]
PROBABILITY = st.floats(0, 1)


@pytest.fixture(scope="module")
def statements() -> Statements:
    return Statements(load_checkpoint().model, abnormalities())


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("There is a 12 mm nodule in the right upper lobe of the lung.", Statement("lung_nodule", True)),
        ("No pulmonary nodule.", Statement("lung_nodule", False)),
        ("Cholelithiasis with a stone of 9 mm.", Statement("gallstones", True)),
        ("Negative for pancreatic cyst.", Statement("pancreatic_cyst", False)),
        ("No pericardial effusion.", Statement("pericardial_effusion", False)),
        ("The spleen is normal in size.", None),
        ("Thank you for this referral.", None),
    ],
)
def test_a_sentence_states_that_something_is_there_or_not(
    statements: Statements, sentence: str, expected: Statement | None
) -> None:
    assert statements.of([sentence]) == [expected]


def test_one_sentence_that_says_so_is_enough(statements: Statements) -> None:
    report = ["No liver cyst is seen.", "There is a simple hepatic cyst.", "No pulmonary nodule."]
    for order in (report, report[::-1]):
        assert statements.of_report(order) == {"liver_cyst": True, "lung_nodule": False}


def test_a_long_report_is_read_like_its_sentences(statements: Statements) -> None:
    many = ["No pulmonary nodule.", "There is a simple hepatic cyst."] * 50
    assert statements.of(many) == statements.of(many[:2]) * 50


def test_no_sentence_is_refused(statements: Statements) -> None:
    with pytest.raises(ValueError, match="text is empty"):
        statements.of([])


@given(own=PROBABILITY, prior=PROBABILITY)
def test_a_match_is_how_much_more_probable_the_statement_is_of_this_scan(own: float, prior: float) -> None:
    scan = scan_vector({"liver_cyst": own}, {"liver_cyst": prior}, ["liver_cyst"])
    own, prior = (min(max(p, 0.01), 0.99) for p in (own, prior))
    there = report_vector({"liver_cyst": True}, ["liver_cyst"]) @ scan
    not_there = report_vector({"liver_cyst": False}, ["liver_cyst"]) @ scan
    assert there == pytest.approx(math.log(own / prior))
    assert not_there == pytest.approx(math.log((1 - own) / (1 - prior)))
    assert report_vector({}, ["liver_cyst"]) @ scan == pytest.approx(NOT_MENTIONED)


def test_what_the_scan_does_not_show_counts_too() -> None:
    report = report_vector({"liver_cyst": True, "gallstones": False}, NAMES)
    nothing = scan_vector({}, {}, NAMES)
    assert report @ nothing == STATED_OUTSIDE + DENIED_OUTSIDE
    chest = scan_vector({"lung_nodule": PRIOR}, {}, NAMES)
    assert report @ chest == pytest.approx(STATED_OUTSIDE + DENIED_OUTSIDE + NOT_MENTIONED)
    both = scan_vector({"liver_cyst": PRIOR, "gallstones": PRIOR}, {}, NAMES)
    assert report @ both == pytest.approx(0)


def test_the_scan_that_a_report_is_of_fits_best() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((40, 29)) < 0.3
    names = [a.name for a in abnormalities()]
    probability = np.clip(truth * 0.5 + rng.random(truth.shape) * 0.4 + 0.05, 0, 1)
    reports = np.array([report_vector(dict(zip(names, row.tolist(), strict=True)), names) for row in truth])
    scans = np.array(
        [scan_vector(dict(zip(names, row.tolist(), strict=True)), {}, names) for row in probability]
    )
    best = (reports @ scans.T).argmax(1)
    assert (best == np.arange(40)).mean() > 0.9


def test_a_probability_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"liver_cyst is 1\.5; it must lie from 0 to 1"):
        scan_vector({"liver_cyst": 1.5}, {}, NAMES)
