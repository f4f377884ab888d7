"""The organ table against TotalSegmentator's published class lists."""

from __future__ import annotations

import pytest

from core_model.abnormality import Abnormality, abnormalities, abnormality
from core_model.anatomy import organ, organs, structures, v2_to_reading


def test_v1_has_its_104_classes() -> None:
    ids = [s.v1_id for s in structures() if s.v1_id is not None]
    assert sorted(ids) == list(range(1, 105))


def test_v2_has_its_117_classes() -> None:
    ids = [s.v2_id for s in structures() if s.v2_id is not None]
    assert sorted(ids) == list(range(1, 118))


def test_structure_names_are_unique() -> None:
    names = [s.name for s in structures()]
    assert len(names) == len(set(names))


# Anchors of totalsegmentator/map_to_binary.py, "total_v1" and "total".
@pytest.mark.parametrize(
    ("name", "v1_id", "v2_id"),
    [
        ("spleen", 1, 1),
        ("liver", 5, 5),
        ("aorta", 7, 52),
        ("pancreas", 10, 7),
        ("lung_upper_lobe_left", 13, 10),
        ("vertebrae_L5", 18, 27),
        ("esophagus", 42, 15),
        ("heart", None, 51),
        ("urinary_bladder", 104, 21),
    ],
)
def test_ids_follow_the_published_order(name: str, v1_id: int | None, v2_id: int | None) -> None:
    [found] = [s for s in structures() if s.name == name]
    assert (found.v1_id, found.v2_id) == (v1_id, v2_id)


def test_every_v1_class_belongs_to_a_reading_organ() -> None:
    names = {o.name for o in organs()}
    assert [s.name for s in structures() if s.v1_id is not None and s.reading_organ not in names] == []


def test_laterality_agrees_with_the_name() -> None:
    for s in structures():
        side = next((w for w in ("left", "right") if w in s.name.split("_")), None)
        assert s.laterality == side, s.name


def test_reading_organs_are_numbered_1_to_36() -> None:
    assert [o.label for o in organs()] == list(range(1, 37))
    assert len({o.name for o in organs()}) == 36
    assert all(o.snomed_code.isdigit() and o.snomed_meaning for o in organs())


def test_v2_ids_map_to_the_label_of_their_organ() -> None:
    table = v2_to_reading()
    assert table[5] == organ("liver").label
    assert table[2] == table[3] == organ("kidneys").label
    assert set(table.values()) <= {o.label for o in organs()}


def test_unknown_organ_names_what_is_known() -> None:
    with pytest.raises(KeyError, match=r"'livr'.*liver"):
        organ("livr")


def test_every_abnormality_is_searched_in_a_reading_organ() -> None:
    assert {a.organ for a in abnormalities()} <= {o.name for o in organs()}
    assert len({a.name for a in abnormalities()}) == len(abnormalities())
    for a in abnormalities():
        assert a.snomed_code.isdigit()
        assert all(t.strip() for t in (*a.present, *a.absent))
        assert not set(a.present) & set(a.absent)


# Verhoeff's dihedral group and its permutation (SNOMED CT, check-digit computation).
_TIMES = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_PERMUTED = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def _check(code: str) -> int:
    value = 0
    for place, digit in enumerate(reversed(code)):
        value = int(_TIMES[value][int(_PERMUTED[place % 8][int(digit)])])
    return value


@pytest.mark.parametrize("entry", abnormalities(), ids=lambda a: a.name)
def test_snomed_codes_have_their_check_digit(entry: Abnormality) -> None:
    assert _check(entry.snomed_code) == 0
    assert entry.snomed_code[-3] == "0"  # a concept of the international edition
    swapped = entry.snomed_code[:2] + entry.snomed_code[3] + entry.snomed_code[2] + entry.snomed_code[4:]
    assert swapped == entry.snomed_code or _check(swapped) != 0


def test_unknown_abnormality_names_what_is_known() -> None:
    with pytest.raises(KeyError, match=r"'warts'.*liver_tumour"):
        abnormality("warts")
