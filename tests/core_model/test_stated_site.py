"""Words for a part of an organ, and the place that fits them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_model.anatomy import organ, organs
from core_model.localization import Searchable
from core_model.question import Meaning, Question
from core_model.ranking import ranked_places
from core_model.reading import KnownPlace, point_lps
from core_model.site_fit import SiteFit
from core_model.stated_site import HIGH, LOW, MIDDLE, Site, stated_site
from tests.core_model.test_encoding import WIDTH, encoding_of

QUERY = np.eye(WIDTH, dtype=np.float32)[0]


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("Solid mass in the upper pole of the left kidney", "kidneys", Site("left", HIGH)),
        ("Cyst in the middle third of the right kidney", "kidneys", Site("right", MIDDLE)),
        ("9 mm nodule in the right upper lobe", "lung", Site("right", (0.4, 1.0))),
        ("9 mm nodule in the lower zone of the left lung", "lung", Site("left", LOW)),
        ("Nodules in both lungs, left more than right", "lung", None),
        ("Metastases in both kidneys, upper pole on the left", "kidneys", Site(None, HIGH)),
        ("Lesion in the right lobe of the liver", "liver", Site(None, None, (0.0, 0.6))),
        ("Lesion in segment VI", "liver", Site(None, (0.0, 0.55), (0.0, 0.6))),
        ("Lesion in segment IVb", "liver", Site(None, None, (0.4, 0.75))),
        ("Hypodense mass in the tail of the pancreas", "pancreas", Site(None, None, HIGH)),
        ("Stenosing tumour in the ascending colon", "colon", Site(None, None, LOW)),
        ("Mass of the sigmoid colon", "colon", Site(None, LOW)),
        ("Dilatation of the ascending aorta", "aorta", Site(None, HIGH)),
        ("Metastasis of T12", "thoracic_spine", Site(None, (0.0, 2 / 12))),
        ("Metastasis of L1", "lumbar_spine", Site(None, (0.6, 1.0))),
        ("Metastasis of L9", "lumbar_spine", None),
        ("Focal bone lesion in the thoracic spine", "thoracic_spine", None),
        ("Hypodense liver lesion", "liver", None),
    ],
)
def test_words_name_a_part_of_the_organ(text: str, name: str, expected: Site | None) -> None:
    assert stated_site(text, name) == expected


@given(text=st.text(), name=st.sampled_from([o.name for o in organs()]))
def test_any_text_is_read(text: str, name: str) -> None:
    site = stated_site(text, name)
    for share in (site.upward, site.leftward) if site else ():
        assert share is None or 0 <= share[0] < share[1] <= 1


def kidneys() -> Searchable:
    """A body of 12 x 10 x 20 cells of 8 mm with two kidneys of six layers, and a lung that the scan cuts."""
    encoding = encoding_of((12, 10, 20))
    labels = np.zeros_like(encoding.grid_organs)
    labels[3:9, 4:7, 3:6] = labels[3:9, 4:7, 14:17] = organ("kidneys").label
    labels[9:12, 4:7, 3:6] = organ("lung").label
    return Searchable(replace(encoding, grid_organs=labels))


@pytest.mark.parametrize(
    ("text", "fits", "half", "not_at_all"),
    [
        # (layer, row, column); columns run to the patient's left, layers upwards
        ("upper pole of the left kidney", (8, 5, 15), (6, 5, 15), (8, 5, 4)),
        ("upper pole of the left kidney", (8, 5, 15), (6, 5, 15), (3, 5, 15)),
        ("lower pole of the right kidney", (3, 5, 4), (5, 5, 4), (3, 5, 15)),
        ("renal cyst on the right side", (8, 5, 4), None, (8, 5, 15)),
    ],
)
def test_a_place_fits_the_part_that_is_named(
    text: str,
    fits: tuple[int, int, int],
    half: tuple[int, int, int] | None,
    not_at_all: tuple[int, int, int],
) -> None:
    study = kidneys()
    site = stated_site(text, "kidneys")
    assert site is not None

    fit = SiteFit.of(study, site, organ("kidneys").label)
    assert fit is not None

    def misfit(cell: tuple[int, int, int]) -> float:
        point = study.encoding.grid.map_indices_to_reference(np.array([cell], dtype=float))[0]
        return fit.misfit(point_lps(point))

    assert misfit(fits) == 0
    assert misfit(not_at_all) == 1
    if half is not None:
        assert 0 < misfit(half) < 1


def test_of_an_organ_that_the_scan_cuts_heights_are_not_known() -> None:
    study = kidneys()
    site = Site(None, LOW)
    top = point_lps(study.encoding.grid.map_indices_to_reference(np.array([[11.0, 5, 4]]))[0])
    fit = SiteFit.of(study, site, organ("lung").label)
    assert fit is not None
    assert fit.misfit(top) == 0
    assert SiteFit.of(study, site, organ("spleen").label) is None, "it is not in the scan"


def test_of_two_known_places_the_one_in_the_named_part_comes_first() -> None:
    study = kidneys()
    low, high = study.encoding.grid.map_indices_to_reference(np.array([[3.0, 5, 4], [8.0, 5, 15]]))
    encoding = replace(
        study.encoding,
        grid_features=np.full_like(study.encoding.grid_features, 0.25),
        known_places=(
            KnownPlace("renal_cyst", point_lps(low), 0.8),
            KnownPlace("renal_cyst", point_lps(high), 0.6),
        ),
    )
    study = Searchable(encoding)
    for site, expected in ((None, low), (Site("left", HIGH), high), (Site("right"), low)):
        question = Question("x", QUERY, Meaning("abnormality", "renal_cyst", 1.0), site=site)
        found = ranked_places(study, question, 1)[0].found
        np.testing.assert_allclose(found.position_lps_mm, expected, atol=1e-6)
