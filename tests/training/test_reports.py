"""Reports say what was planted, nothing else, and point at the slices that show it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.abnormality import abnormalities
from core_model.anatomy import organs
from training.phantoms.phrases import NEGATIVE, NORMAL, POSITIVE, SECTIONS
from training.phantoms.reports import Report, image_number, largest_slice, write_report
from training.phantoms.study import make_phantom
from training.phantoms.tissues import Phantom

WANTED = (
    ("liver_tumour", 30.0),
    ("liver_tumour", 18.0),
    ("lung_nodule", 20.0),
    ("renal_cyst", 24.0),
    ("hepatic_steatosis", 0.0),
    ("pleural_effusion", 0.0),
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(21, lesions=WANTED, spacing_mm=4.0)


@pytest.fixture(scope="module")
def report(phantom: Phantom) -> Report:
    return write_report(phantom, np.random.default_rng(0))


def test_every_abnormality_and_organ_has_its_phrases() -> None:
    names = {a.name for a in abnormalities()}
    assert set(POSITIVE) == names
    assert set(NEGATIVE) == names
    known = {o.name for o in organs()}
    reported = [name for _, members in SECTIONS for name in members]
    assert set(reported) <= known
    assert len(reported) == len(set(reported))
    assert set(NORMAL) <= known
    assert {a.organ for a in abnormalities()} <= set(reported)


def test_positive_sentences_are_exactly_what_was_planted(phantom: Phantom, report: Report) -> None:
    said = sorted(s.abnormality for s in report.sentences if s.positive and s.abnormality)
    assert said == sorted(p.abnormality for p in phantom.planted)


def test_absent_abnormalities_are_denied_once(phantom: Phantom, report: Report) -> None:
    planted = {p.abnormality for p in phantom.planted}
    for entry in abnormalities():
        denials = [s for s in report.sentences if s.abnormality == entry.name and not s.positive]
        assert len(denials) == (0 if entry.name in planted else 1), entry.name
        assert all(s.organ == entry.organ and s.image_number is None for s in denials)


def test_references_point_at_slices_that_show_the_lesion(phantom: Phantom, report: Report) -> None:
    depth = phantom.hu.shape[0]
    assert len(report.snippets) == sum(p.mask_value > 0 for p in phantom.planted)
    for snippet in report.snippets:
        z = depth - snippet.image_number
        assert bool((phantom.lesions[z] == snippet.mask_value).any())
        assert "image" not in snippet.text.lower()
    for sentence in report.sentences:
        if sentence.image_number is not None:
            assert re.search(rf"\b3\b.*\b{sentence.image_number}\b", sentence.text)
            assert sentence.text in report.text


def test_sizes_are_those_of_the_lesions(phantom: Phantom) -> None:
    sizes = {p.mask_value: p.diameter_mm for p in phantom.planted if p.diameter_mm > 0}
    measured = 0
    for seed in range(5):
        for snippet in write_report(phantom, np.random.default_rng(seed)).snippets:
            found = re.search(r"([\d.]+) (mm|cm)", snippet.text)
            if found and snippet.mask_value in sizes:
                diameter_mm = float(found[1]) * (10 if found[2] == "cm" else 1)
                assert diameter_mm == pytest.approx(sizes[snippet.mask_value], abs=0.6)
                measured += 1
    assert measured >= 10


def test_sides_are_named(phantom: Phantom) -> None:
    sides = {p.mask_value: p.side for p in phantom.planted if p.side}
    for seed in range(5):
        for snippet in write_report(phantom, np.random.default_rng(seed)).snippets:
            other = {"left": "right", "right": "left"}.get(sides.get(snippet.mask_value, ""))
            assert other is None or other not in snippet.text


def test_same_state_same_report_and_others_vary(phantom: Phantom, report: Report) -> None:
    assert write_report(phantom, np.random.default_rng(0)) == report
    texts = {write_report(phantom, np.random.default_rng(seed)).text for seed in range(6)}
    assert len(texts) == 6


def test_organs_out_of_view_are_not_mentioned() -> None:
    chest = make_phantom(3, lesions=(), spacing_mm=5.0, height_mm=60.0)
    present = set(chest.organs.unique().tolist())
    names = {o.name for o in organs() if o.label in present}
    sentences = write_report(chest, np.random.default_rng(0)).sentences
    assert sentences
    assert {s.organ for s in sentences} <= names


def test_healthy_phantom_has_a_clean_impression() -> None:
    healthy = make_phantom(4, lesions=(), spacing_mm=5.0)
    result = write_report(healthy, np.random.default_rng(1))
    assert not any(s.positive for s in result.sentences)
    assert not result.snippets
    assert "No acute or suspicious finding." in result.text


def test_largest_slice_is_where_the_area_is_largest(phantom: Phantom) -> None:
    lesion = phantom.planted[0]
    area = (phantom.lesions == lesion.mask_value).sum((1, 2))
    z = largest_slice(phantom, lesion)
    assert z is not None
    assert int(area[z]) == int(area.max()) > 0


@given(depth=st.integers(2, 400), n_images=st.integers(2, 900), share=st.floats(0, 1))
def test_image_number_inverts_the_slice_position(depth: int, n_images: int, share: float) -> None:
    z = share * (depth - 1)
    number = image_number(z, depth, n_images)
    assert 1 <= number <= n_images
    back = (n_images - number + 0.5) * depth / n_images - 0.5  # centre of that image in slices
    # At the ends a coarse series' last image is centred inside of the phantom's last slice.
    assert abs(back - z) <= 0.5 * max(1.0, depth / n_images) + 1e-6


def test_bad_numbers_are_refused(phantom: Phantom) -> None:
    with pytest.raises(ValueError, match="series_number"):
        write_report(phantom, np.random.default_rng(0), 0)
