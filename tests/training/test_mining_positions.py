"""References resolved in the geometry of a study."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.mining.positions import SeriesSlices, snippets, superior_first

THIN = SeriesSlices.counted(300, 1.0, superior_first=True, number=3)
THICK = SeriesSlices.counted(60, 5.0, superior_first=True, number=4)
CORONAL = SeriesSlices(5, (1, 2, 3), (10.0, 10.0, 10.0), axial=False)


@given(st.integers(1, 300), st.booleans())
def test_direction_decides_where_an_image_lies(image: int, first: bool) -> None:
    series = SeriesSlices.counted(300, 2.0, superior_first=first, number=3)
    (found,) = snippets(f"A simple cyst (series 3, image {image}).", [series]).snippets
    from_feet = 300 - image if first else image - 1
    assert (found.slice_index, found.height_mm, found.image) == (from_feet, from_feet * 2.0, image)


def test_text_organs_and_series() -> None:
    report = "LIVER:\nCyst in segment 7 (3/204) and hemangioma in the left lobe (4/38)."
    first, second = snippets(report, [THIN, THICK, CORONAL]).snippets
    assert (first.text, first.organs, first.series, first.slice_index) == (
        "Cyst in segment 7",
        ("liver",),
        3,
        96,
    )
    assert (second.text, second.series, second.height_mm) == ("hemangioma in the left lobe", 4, 110.0)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Cyst on series 9 image 4.", "no series 9"),
        ("Cyst on series 3 image 301.", "no image 301"),
        ("Cyst on image 45.", "more than one"),
        ("Cyst on coronal series 3 image 30.", "not axial"),
        ("Cyst on series 5 image 2.", "not axial"),
        ("Cysts on series 3 images 20 and 200.", "180 mm apart"),
        ("Cyst on series 3, image 45 of 120.", "counts 120 images"),
        ("(series 3, image 45).", "says nothing"),
    ],
)
def test_the_doubtful_is_dropped_with_its_reason(sentence: str, reason: str) -> None:
    found = snippets(sentence, [THIN, THICK, CORONAL])
    assert found.snippets == ()
    assert reason in found.dropped[0].reason


def test_a_range_is_its_middle_and_an_image_without_series_needs_one_series() -> None:
    assert snippets("Effusion, series 3 images 40-44.", [THIN, THICK]).snippets[0].image == 42
    assert snippets("Small cyst, image 200.", [THIN, THICK]).snippets[0].series == 3


def test_numbers_that_repeat_or_turn_are_no_positions() -> None:
    twice = SeriesSlices(3, (1, 1, 2), (0.0, 5.0, 10.0))
    turning = SeriesSlices(3, (1, 2, 3), (0.0, 10.0, 5.0))
    assert "not unique" in snippets("A cyst (series 3, image 1).", [twice]).dropped[0].reason
    assert "one way" in snippets("A cyst (series 3, image 1).", [turning]).dropped[0].reason
    with pytest.raises(ValueError, match="one of each per slice"):
        SeriesSlices(3, (1, 2), (0.0,))


def test_organs_check_the_slice_and_tell_the_direction() -> None:
    extents = {"liver": (60.0, 140.0), "lung": (160.0, 290.0)}
    report = "Cyst in the liver (3/204). Nodule in the right lung apex (series 3, image 20)."
    assert len(snippets(report, [THIN], extents).snippets) == 2
    wrong = snippets("Cyst in the liver (series 3, image 20).", [THIN], extents)
    assert wrong.snippets == ()
    assert "no organ" in wrong.dropped[0].reason
    assert superior_first(report, 300, 1.0, extents) is True
    assert superior_first("Cyst in the liver (3/90). Nodule in the lung (3/280).", 300, 1.0, extents) is False
    assert superior_first("Cyst in the liver.", 300, 1.0, extents) is None
