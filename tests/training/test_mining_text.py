"""Sentences of reports and what they say of what they mention."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.mining.assertion import assess, clauses
from training.mining.patterns import compile_pattern
from training.mining.text import sentences

SECTIONED = """EXAM: CT CHEST
HISTORY: Smoker.
FINDINGS:
Lungs: Clear. No nodule.
BONES:
Degenerative change.
IMPRESSION:
1. No acute finding.
2. Small cyst of the kidney, approx. 1.2 cm (Bosniak I), seen by Dr. Stone
on 03.02.2020.
"""


def test_sections_headings_and_lists() -> None:
    found = [(s.section, s.heading, s.text, s.item) for s in sentences(SECTIONED)]
    assert found == [
        ("technique", "", "CT CHEST", True),
        ("history", "", "Smoker.", True),
        ("findings", "Lungs", "Lungs: Clear.", True),
        ("findings", "Lungs", "No nodule.", False),
        ("findings", "BONES", "Degenerative change.", True),
        ("impression", "", "No acute finding.", True),
        (
            "impression",
            "",
            "Small cyst of the kidney, approx. 1.2 cm (Bosniak I), seen by Dr. Stone on 03.02.2020.",
            True,
        ),
    ]


@pytest.mark.parametrize(
    "report",
    [
        "EXAM: CT CHEST\n\nThere is a nodule.",
        "COMPARISON: None.\nLungs: There is a nodule.",
        "TECHNIQUE: Helical CT.\nThorax:\nThere is a nodule.",
        "HISTORY: Cough.\nFever.\n\nThere is a nodule.",
    ],
)
def test_what_follows_a_head_without_a_heading_of_its_own_is_no_history(report: str) -> None:
    found = sentences(report)
    assert found[0].section in {"technique", "comparison", "history"}
    assert found[-1].text.endswith("There is a nodule.")
    assert found[-1].section == ""


@pytest.mark.parametrize(
    ("report", "parts"),
    [
        ("Nodule of 3.5 mm. Mass of 2 cm.", 2),
        ("Seen on slice no. 45. No mass.", 2),
        ("Normal lungs.Bones are normal.", 2),
        ("Small airway disease? Small vessel disease?", 2),
        ("Cyst (see image 3. It is simple.) in the liver.", 1),
        ('" Hiatal hernia " Emphysema in both lungs', 2),
        ("• Hiatal hernia. • Emphysema", 2),
        ("The wound is by T. Miller. Normal.", 2),
        ("Fracture of Th. 12 and ca. 3 mm shift.", 1),
        ("Heart: normal\nLungs: clear\nSpleen: normal", 3),
        ("A finding that goes on and on until the line is full and then it is\nwrapped here.", 1),
        ("", 0),
    ],
)
def test_splitting(report: str, parts: int) -> None:
    assert len(sentences(report)) == parts


@given(st.text(alphabet=st.sampled_from('aBc. 12,:;\n-•()"?/²٣'), max_size=200))
def test_splitting_loses_no_word_and_makes_none(report: str) -> None:
    found = sentences(report)
    assert all(re.search(r"\w", s.text) for s in found)
    words = iter(re.findall(r"\w+", report))
    assert all(word in words for s in found for word in re.findall(r"\w+", s.text))  # in their order


# What of it, in which sentence, is what. Written for this test; none is of a data set.
SAID = [
    ("effusion", "present", "No change in the right pleural effusion."),
    ("effusion", "present", "Without significant interval change in bilateral effusions."),
    ("effusion", "absent", "Pleural effusion or pneumothorax is not observed."),
    ("effusion", "absent", "Previously seen effusion has resolved."),
    ("effusion", "absent", "The effusion seen on the prior is no longer seen."),
    ("effusion", "absent", "Pleural effusion: none"),
    ("effusion", "present", "An effusion is seen on the right and is not seen on the left."),
    ("consolidation", "absent", "No nodule, mass or consolidation."),
    ("consolidation", "absent", "Bronchi are open and no occlusive pathology, consolidation was detected."),
    ("atelectasis", "present", "There is no pneumothorax, but there is atelectasis."),
    ("atelectasis", "present", "No effusion; atelectasis on the left."),
    (
        "calcifications",
        "present",
        "Calcifications were observed in the aorta, and effusion was not detected.",
    ),
    ("size increased", "present", "Heart size increased, pericardial effusion was not observed."),
    ("nodule", "elsewhere", "No new nodule."),
    ("nodule", "present", "There is a nodule in the right upper lobe, not seen on the prior study."),
    ("nodules", "present", "The nodules have not changed."),
    ("nodules", "present", "Nodules are seen in both lungs without calcification."),
    ("nodule", "absent", "Another nodule, which was seen in the previous examination, was not seen now."),
    ("pericardial effusion", "absent", "Neither pleural nor pericardial effusion is present."),
    ("pneumonia", "uncertain", "Pneumonia cannot be excluded."),
    ("pneumonia", "uncertain", "Opacity, possibly pneumonia."),
    ("airway disease", "uncertain", "Mosaic attenuation (small airway disease?)."),
    ("cyst", "uncertain", "Hypodense lesion, likely a cyst."),
    ("lesion", "present", "Hypodense lesion, likely a cyst."),
    ("metastasis", "absent", "Metastasis is unlikely."),
    ("embolism", "elsewhere", "Rule out pulmonary embolism."),
    ("pneumonia", "elsewhere", "History of pneumonia."),
    ("pneumonia", "elsewhere", "It is recommended to be evaluated in terms of pneumonia."),
]


@pytest.mark.parametrize(("words", "status", "sentence"), SAID)
def test_what_is_said(words: str, status: str, sentence: str) -> None:
    start = sentence.lower().index(words)
    assert assess(sentence, start, start + len(words)).status == status


@given(st.text(alphabet=st.sampled_from("ab ,;.no is was and not which"), max_size=80))
def test_clauses_cover_the_sentence(sentence: str) -> None:
    found = clauses(sentence)
    assert "".join(sentence[a:b] for a, b in found) == sentence


def test_a_pattern_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"nodul\("):
        compile_pattern(["nodul("])
    with pytest.raises(ValueError, match="blank"):
        compile_pattern([" "])
    assert compile_pattern([]).search("anything") is None


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("h(a)?emangioma*", "Hemangiomas"),
        ("(<?a)|(b)", "b"),
        ("mass|masses", "Masses"),
        ("(l|t)[1-5]", "L4"),
        ("colou?r", "color"),
        ("heart .. (large|wide)", "heart is very wide"),
    ],
)
def test_fixed_letters_pass_over_no_match(pattern: str, text: str) -> None:
    compiled = compile_pattern([pattern])
    assert compiled.expression.search(text) is not None
    assert compiled.search(text) is not None
