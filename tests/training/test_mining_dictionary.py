"""A dictionary grown from a corpus, and its table."""

from __future__ import annotations

import csv
from io import StringIO

import pytest

from core_model.anatomy import table_rows
from training.mining.dictionary import Wording, alike, bare, grow, table

CORPUS = [
    "There is a 12 mm exophytic fluid-filled renal cyst (3/45). No pneumothorax is identified today.",
    "Exophytic fluid-filled renal cyst, 3 cm. The renal cyst is unchanged compared to the prior examination.",
    "FINDINGS: exophytic, fluid-filled renal cyst. Emphysema and pleural effusion.",
    "Possible exophytic fluid-filled renal cyst.",
]


def test_frequent_wordings_without_sizes_references_and_comparisons() -> None:
    found = grow(CORPUS, least=2)
    assert [(w.abnormality, w.polarity, w.reports) for w in found] == [("renal_cyst", "present", 3)]
    assert "exophytic" in found[0].text.lower()
    assert not any(character.isdigit() for character in found[0].text)


def test_rare_wordings_and_known_ones_are_left_out() -> None:
    assert grow(CORPUS[:1], least=2) == ()
    assert grow(["There is a simple renal cyst."] * 5, least=1) == ()
    with pytest.raises(ValueError, match="least 0"):
        grow(CORPUS, least=0)


def test_the_table_is_the_dictionarys_with_more() -> None:
    written = list(csv.DictReader(StringIO(table([Wording("emphysema", "absent", "No bullous lungs.", 3)]))))
    before = table_rows("abnormality.csv")
    assert [r["name"] for r in written] == [r["name"] for r in before]
    changed = [(new, old) for new, old in zip(written, before, strict=True) if new != old]
    assert [(new["name"], new["absent"]) for new, _ in changed] == [
        ("emphysema", f"{changed[0][1]['absent']}|No bullous lungs.")
    ]
    with pytest.raises(ValueError, match="bar"):
        table([Wording("emphysema", "absent", "a|b", 3)])


def test_wordings_count_as_one_where_they_share_their_words() -> None:
    assert alike(bare("Mild pleural effusion on the right."), bare("There is pleural effusion."))
    assert not alike(bare("Pleural effusion."), bare("Pericardial effusion."))
