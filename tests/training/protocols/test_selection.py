"""CT-RATE's variants on tables of its published structure, and the development split."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.datasets.sample import Record
from training.protocols.selection import (
    DEVELOPMENT_SHARE,
    VARIANTS,
    development,
    first_of_study,
    is_development,
    section,
    study,
)

PATIENTS, STUDIES, VOLUMES = 1304, 1564, 3039
NO_CHEST_SIZES = [3] * 11 + [2] * 2  # 13 studies, 37 volumes: what is left are 3,002 volumes of 1,551 studies
TWICE = 58  # studies whose findings another study has word by word: 1,551 - 58 = 1,493


def record(name: str, findings: str = "", *, no_chest: bool = False) -> Record:
    patient, scan, reconstruction = name.rsplit("_", 2)
    notes = {"study": f"{patient}_{scan}", "reconstruction": reconstruction}
    return Record(
        name,
        patient,
        "train" if name.startswith("train") else "validation",
        Path(f"{name}.nii.gz"),
        report=f"TECHNIQUE:\nAs always.\nFINDINGS:\n{findings}\nIMPRESSION:\nSee above {name}.",
        notes={**notes, **({"no_chest": "listed"} if no_chest else {})},
    )


@pytest.fixture(scope="module")
def validation() -> list[Record]:
    """Records with the counts of CT-RATE's validation split."""
    studies = [f"valid_{k + 1}_a" for k in range(PATIENTS)]
    studies += [f"valid_{k + 1}_b" for k in range(STUDIES - PATIENTS)]
    sizes = NO_CHEST_SIZES + [2] * 1451 + [1] * 100
    chest = [s for s, _ in zip(studies, sizes, strict=True)][len(NO_CHEST_SIZES) :]
    text = {s: f"Nodule number {k} in the lung." for k, s in enumerate(chest)}
    for one, other in zip(chest[:TWICE], chest[-TWICE:], strict=True):
        text[other] = text[one]
    return [
        record(f"{s}_{r + 1}", text.get(s, "Nothing of the chest is shown."), no_chest=s not in text)
        for s, size in zip(studies, sizes, strict=True)
        for r in range(size)
    ]


def test_counts_are_the_published_ones(validation: list[Record]) -> None:
    assert len(validation) == VOLUMES
    assert len({r.patient for r in validation}) == PATIENTS
    assert {count: len(v.choose(validation)) for count, v in VARIANTS.items()} == {
        count: count for count in (3039, 3002, 1564, 1551, 1493)
    }


def test_variants_do_not_depend_on_the_order_of_the_table(validation: list[Record]) -> None:
    for variant in VARIANTS.values():
        assert variant.choose(validation) == variant.choose(validation[::-1])


def test_one_reconstruction_per_study_is_the_first(validation: list[Record]) -> None:
    chosen = first_of_study(validation)
    assert len({study(r) for r in chosen}) == len(chosen)
    assert all(r.name.endswith("_1") for r in chosen)


def test_the_first_that_is_there_counts() -> None:
    names = [
        r.name for r in first_of_study([record("valid_1_a_3"), record("valid_1_a_2"), record("valid_1_b_1")])
    ]
    assert names == ["valid_1_a_2", "valid_1_b_1"]


def test_a_study_with_a_chest_left_stays() -> None:
    records = [record("valid_1_a_1", no_chest=True), record("valid_1_a_2")]
    assert [r.name for r in VARIANTS[1551].choose(records)] == ["valid_1_a_2"]
    assert [r.name for r in VARIANTS[1564].choose(records)] == ["valid_1_a_1"]


def test_duplicates_are_of_the_findings_alone() -> None:
    records = [
        record("valid_1_a_1", "Same."),
        record("valid_2_a_1", "Same."),
        record("valid_3_a_1", "Other."),
    ]
    assert len({r.report for r in records}) == 3
    assert [r.name for r in VARIANTS[1493].choose(records)] == ["valid_1_a_1", "valid_3_a_1"]


def test_sections_of_a_report() -> None:
    report = record("valid_1_a_1", "A nodule. No effusion.").report
    assert section(report, "findings") == "A nodule. No effusion."
    assert section(report, "findings", "impression").endswith("See above valid_1_a_1.")
    assert section("A nodule without a heading.", "findings") == "A nodule without a heading."


def test_development_patients_are_as_many_as_published() -> None:
    patients = [f"train_{k}" for k in range(1, 20001)]
    found = [p for p in patients if is_development(p)]
    assert len(found) == pytest.approx(1301, abs=100)  # three standard deviations of 20,000 draws are 105
    assert len(found) / 20000 == pytest.approx(DEVELOPMENT_SHARE, abs=0.005)
    assert found[:3] == ["train_13", "train_20", "train_38"]  # for ever the same


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(1, 10**6))
def test_a_larger_share_keeps_the_patients_of_a_smaller(one: float, other: float, number: int) -> None:
    patient, (low, high) = f"train_{number}", sorted((one, other))
    assert not is_development(patient, low) or is_development(patient, high)


def test_development_is_of_the_train_split_one_per_study() -> None:
    records = [record(n) for n in ("train_5_a_1", "train_5_a_2", "train_6_b_1", "valid_5_a_1")]
    assert [r.name for r in development(records, 1.0)] == ["train_5_a_1", "train_6_b_1"]
    with pytest.raises(ValueError, match="above 0"):
        development(records, 0.0)
