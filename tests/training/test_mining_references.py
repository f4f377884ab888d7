"""References to images: what is one, what only looks like one, and what is left of the sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.mining.references import referring_sentences

Found = list[tuple[int | None, tuple[int, ...]]]


def found_in(report: str) -> Found:
    return [(r.series, r.images) for s in referring_sentences(report) for r in s.references]


# Phrasings of several hospitals; written for this test.
REFERENCES: list[tuple[str, Found]] = [
    ("Nodule (series 3, image 204).", [(3, (204,))]),
    ("Nodule, series 3 image 204 and 210.", [(3, (204, 210))]),
    ("Seen on series 2 IMA: 66.", [(2, (66,))]),
    ("Mass (series 2 section 212).", [(2, (212,))]),
    ("Axial image 45 of series 2 shows a mass.", [(2, (45,))]),
    ("Cyst, se 4 im 77.", [(4, (77,))]),
    ("Cyst (se4im77), stable.", [(4, (77,))]),
    ("Cyst S3 I45.", [(3, (45,))]),
    ("Cyst (S:4, I:77).", [(4, (77,))]),
    ("Cyst (Se/Im 3/45).", [(3, (45,))]),
    ("Cyst (series/image: 3/45).", [(3, (45,))]),
    ("Cyst (image 3/45).", [(3, (45,))]),
    ("Cyst (3 image 1), node (3 image 81) previously 4 mm.", [(3, (1,)), (3, (81,))]),
    ("Foci (series 28/images 22, 41, 42).", [(28, (22, 41, 42))]),
    ("Cyst, Ser. 3 / Im. 204.", [(3, (204,))]),
    ("Cyst, image #45 (series #2).", [(2, (45,))]),
    ("Cyst on slice no. 45.", [(None, (45,))]),
    ("Cyst (Bild 45, Serie 3).", [(3, (45,))]),
    ("Cyst series 3 arterial phase image 44.", [(3, (44,))]),
    ("Cyst (Im: 45/120 Se: 3).", [(3, (45,))]),
    ("Images 45-48 of series 2 show it.", [(2, (45, 46, 47, 48))]),
    ("Images 45 through 47 show it.", [(None, (45, 46, 47))]),
    ("Series 2 images 33, 35, and 40 show nodules.", [(2, (33, 35, 40))]),
    ("Nodules (images 12, 14-16, 20; series 3).", [(3, (12, 14, 15, 16, 20))]),
    ("Nodules (sections 31, 40 and 52).", [(None, (31, 40, 52))]),
    ("Lesion (IMA 8-34).", [(8, (34,))]),
    ("Lesion (IMA 87), 3 mm.", [(None, (87,))]),
    ("Lesion IMA 51 and 63.", [(None, (51, 63))]),
    ("Appendix (3/204).", [(3, (204,))]),
    ("Two nodules (3/263; 4/38).", [(3, (263,)), (4, (38,))]),
    ("Two nodules (3/263, 265).", [(3, (263,)), (3, (265,))]),
    ("Nodule (8 mm, 4/77).", [(4, (77,))]),
    ("Nodule [4:77].", [(4, (77,))]),
    ("Nodes, 5 mm (6-131) and 9 mm (12-166).", [(6, (131,)), (12, (166,))]),
    ("Nodule (3/45-47).", [(3, (45, 46, 47))]),
    ("Nodule, 5 mm, image 45, 3 mm image 50.", [(None, (45,)), (None, (50,))]),
    ("Series 3: image 45; series 4: image 50.", [(3, (45,)), (4, (50,))]),
    ("Node on image 45 and 3 other nodes.", [(None, (45,))]),
    ("Previously 4 mm (3/198), now 6 mm (3/204).", [(3, (204,))]),
    ("The previously seen nodule measures 6 mm (3/204).", [(3, (204,))]),
    ("Nodule, unchanged from prior (3/204).", [(3, (204,))]),
]

NONE = [
    "It measures 3/5 mm.",
    "Pain score 4/10 (4/10).",
    "CT of (12/06), (03/2020) and (3/20).",
    "CT (3/98).",
    "Fracture at L4/5 (4/5).",
    "Ribs (7-9).",
    "Blood pressure (120/80).",
    "Call (555-1234), ext (3-4567).",
    "Ratio (1:2), the ratio is (1:256).",
    "At 10:45 (10:45).",
    "Density (204-236 HU).",
    "Lymph nodes (8-12 mm), few (5-10), some (10-15).",
    "Slice thickness 5 mm; slices 5 mm thick; 1.25 mm sections, slice 2 to 3 mm.",
    "Images 1-200 were acquired.",
    "Reconstructed in series 3 through 5.",
    "There are 45 images in series 3.",
    "Series 3 and 4, image 45.",
    "Series 3/12 image 45.",
    "It was 4 mm on series 3, image 45 of the prior study.",
    "Nodule in section 8.",
    "Images 2020 were compared.",
    "Lesion (key image 3).",
    "Zyste im 4. Segment.",
    "Nodule (#45), 3/4 of the lobe, Optiray 300, 100 cc.",
]


@pytest.mark.parametrize(("report", "expected"), REFERENCES)
def test_references_are_found(report: str, expected: Found) -> None:
    assert found_in(report) == expected


@pytest.mark.parametrize("report", NONE)
def test_what_only_looks_like_one_is_dropped(report: str) -> None:
    assert found_in(report) == []


def test_the_report_settles_what_a_sentence_leaves_open() -> None:
    assert found_in("Node of 9 mm (3-28).") == []
    assert found_in("Node of 9 mm (3-28). Nodule (IMA 3-104).") == [(3, (28,)), (3, (104,))]
    assert found_in("Series 201, image 45. Cyst (201/55).") == [(201, (45,)), (201, (55,))]
    assert found_in("Cyst (201/55).") == []


def test_a_dropped_reference_has_its_reason() -> None:
    (sentence,) = referring_sentences("Nodule 6 mm (3/204, previously 3/198).")
    assert [d.reason for d in sentence.dropped] == ["is of an earlier examination"]
    assert sentence.text == "Nodule 6 mm."


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("Cyst in segment 7 (series 3, image 47), stable.", "Cyst in segment 7, stable."),
        ("Nodule (series 3, image 45, 5 mm).", "Nodule (5 mm)."),
        ("5 mm nodule in the lung on image 23, series 3.", "5 mm nodule in the lung."),
        ("Two nodules (3/263; 4/38).", "Two nodules."),
        ("Mass (series 3 image 94, coronal image 110).", "Mass."),
        ("Axial image 45 of series 2 shows a mass.", "shows a mass."),
    ],
)
def test_what_is_left_of_a_sentence(sentence: str, text: str) -> None:
    assert referring_sentences(sentence)[0].text == text


def test_plane_and_total() -> None:
    refs = [
        r for s in referring_sentences("Coronal series 5 image 30. Image 45 of 120.") for r in s.references
    ]
    assert (refs[0].plane, refs[1].total) == ("other", 120)


@given(st.text(alphabet=st.sampled_from("0123456789 /-:;,.()[]#imase IMAseriesand²٣mm"), max_size=120))
def test_any_text_gives_positive_images_that_stand_in_it(report: str) -> None:
    for sentence in referring_sentences(report):
        for r in sentence.references:
            assert all(image > 0 for image in r.images)
            assert str(r.images[0]) in r.words.replace("0", "") or str(r.images[0]) in r.words
            assert sentence.sentence.text[r.start : r.end] == r.words


def test_a_long_run_of_digits_is_read_in_time() -> None:
    assert found_in(f"previous {'1' * 5000} z (3/204)") == [(3, (204,))]
