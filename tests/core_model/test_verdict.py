"""A verdict says what follows from its numbers, and holds only for the two checkpoints that it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.verdict import FILE, Measured, Verdict, VerdictError, read_verdict
from tests.tiny import tiny_checkpoint
from tests.verdicts import BETTER, WORSE, allow

unit = st.floats(0, 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_checkpoint(folder, seed=0)
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    tiny_checkpoint(tmp_path / "new", seed=1)
    return tmp_path / "new"


def test_it_is_read_as_it_was_written(base: Path, new: Path) -> None:
    verdict = allow(new, base)
    assert read_verdict(new) == verdict
    assert verdict.promote
    assert json.loads((new / FILE).read_text())["promote"] is True


@pytest.mark.parametrize(
    ("measures", "changes", "objection"),
    [
        ((BETTER, WORSE), {}, "findings AUC fell from 0.800 to 0.600"),
        ((BETTER,), {"patients": 9}, "only 9 held-out patients, 10 are needed"),
        ((Measured("Dice", 0.5, 0.4, -0.3, 0.1, 12),), {}, "nothing became better"),
    ],
)
def test_what_speaks_against_a_promotion(
    base: Path, new: Path, measures: tuple[Measured, ...], changes: dict[str, Any], objection: str
) -> None:
    verdict = allow(new, base, *measures, **changes)
    assert not verdict.promote
    assert objection in "; ".join(verdict.objections)


@given(st.lists(st.tuples(unit, unit, unit, unit), min_size=1, max_size=6), st.integers(0, 30))
def test_no_measure_that_is_worse_for_sure_is_let_through(
    numbers: list[tuple[float, float, float, float]], patients: int
) -> None:
    from core_model.verdict import Judged  # noqa: PLC0415

    who = Judged("a", "1", "0" * 64, "1" * 64)
    measures = tuple(
        Measured(str(n), a, b, b - a - below, b - a + above, patients)
        for n, (a, b, below, above) in enumerate(numbers)
    )
    verdict = Verdict(who, who, measures, patients, 10, "")
    sure = any(one.high < 0 for one in measures)
    assert not (verdict.promote and (sure or patients < 10))
    if patients >= 10 and not sure and any(one.new > one.base for one in measures):
        assert verdict.promote


@pytest.mark.parametrize("numbers", [(0.1, float("nan"), 0.0, 0.0), (0.1, 0.2, 0.3, 0.1)])
def test_numbers_that_are_none_are_refused(numbers: tuple[float, float, float, float]) -> None:
    with pytest.raises(VerdictError, match="must be finite and low <= high"):
        Measured("Dice", *numbers, 3)


def test_a_changed_number_is_noticed(base: Path, new: Path) -> None:
    allow(new, base, BETTER, WORSE)
    document = json.loads((new / FILE).read_text())
    document["measures"] = document["measures"][:1]
    (new / FILE).write_text(json.dumps(document))
    with pytest.raises(VerdictError, match="was changed after it was written"):
        read_verdict(new)


def test_changed_thresholds_of_the_new_one_are_noticed(base: Path, new: Path) -> None:
    allow(new, base)
    card = json.loads((new / "card.json").read_text())
    (new / "card.json").write_text(json.dumps({**card, "thresholds": {}}))
    with pytest.raises(VerdictError, match="was changed after its verdict was written"):
        read_verdict(new)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1, "checksum": ""}', "\udcff"])
def test_what_is_no_verdict_is_named(new: Path, content: str) -> None:
    (new / FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(VerdictError, match=FILE):
        read_verdict(new)
    (new / FILE).unlink()
    with pytest.raises(VerdictError, match=f"has no {FILE}"):
        read_verdict(new)
