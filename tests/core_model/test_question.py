"""Which entry of the dictionary a text means, and what is known of it comes first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.query_cases import wording
from core_model.anatomy import organ, organs
from core_model.checkpoint import load_checkpoint
from core_model.localization import Searchable, agreement
from core_model.question import Asker, Meaning, Question
from core_model.ranking import APART_MM, NAMED, heat, ranked_places
from core_model.reader import Reader
from core_model.reading import KnownPlace
from core_model.stated_size import stated_size_mm
from tests.core_model.test_encoding import WIDTH, encoding_of

QUERY = np.eye(WIDTH, dtype=np.float32)[0]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load(None, "cpu")


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("hypodense liver lesion", "abnormality", "liver_tumour"),
        ("pulmonary nodule in the right lower lobe", "abnormality", "lung_nodule"),
        ("Gallstones, unchanged (series 2, image 41).", "abnormality", "gallstones"),
        ("spleen", "organ", "spleen"),
        ("where is the liver", "organ", "liver"),
    ],
)
def test_a_text_means_the_entry_of_the_dictionary(reader: Reader, text: str, kind: str, name: str) -> None:
    question = reader.question(text)
    assert question.meaning is not None
    assert (question.meaning.kind, question.meaning.name) == (kind, name)
    assert float(question.embedding @ reader.embed(text)) > 0.999  # the first may be of bfloat16


def test_questions_in_half_the_precision_mean_the_same(reader: Reader) -> None:
    """Every wording of the dictionary, changed a little, and the organs, whatever the processor has."""
    model = load_checkpoint(None).model
    texts = [f"{a.display} {i}" for i, a in enumerate(reader.abnormalities)]
    texts += [wording for a in reader.abnormalities for wording in a.present]
    texts += [o.display for o in organs()]
    single, half = (Asker(model, reader.abnormalities, bf16=b).questions(texts) for b in (False, True))
    np.testing.assert_allclose([q.embedding for q in single], reader.embed_all(texts), atol=1e-5)
    for one, other in zip(single, half, strict=True):
        assert one.meaning is not None
        assert other.meaning is not None
        assert (one.meaning.kind, one.meaning.name) == (other.meaning.kind, other.meaning.name)
        assert other.meaning.similarity == pytest.approx(one.meaning.similarity, abs=0.01)
        assert float(one.embedding @ other.embedding) > 0.999


def test_a_text_about_something_else_means_nothing(reader: Reader) -> None:
    assert reader.question("the weather in spring").meaning is None


def about(kind: str, name: str, similarity: float = 1.0) -> Question:
    return Question("x", QUERY, Meaning(kind, name, similarity))  # type: ignore[arg-type]


def test_known_places_compete_with_words_by_what_was_seen() -> None:
    encoding = encoding_of((9, 12, 12))
    encoding = replace(encoding, grid_features=np.full_like(encoding.grid_features, 0.25))  # all agree alike
    corner, middle = encoding.grid.map_indices_to_reference(np.array([[1.0, 2, 2], [7.25, 8, 8]]))
    seen = (
        KnownPlace("liver_tumour", tuple(corner), 0.2),
        KnownPlace("liver_tumour", tuple(middle), 0.999),
        KnownPlace("liver_cyst", tuple(corner), 0.01),
    )
    study = Searchable(replace(encoding, known_places=seen))
    places = ranked_places(study, about("abnormality", "liver_tumour"), 6)
    np.testing.assert_allclose(places[0].found.position_lps_mm, middle, atol=1e-6)
    np.testing.assert_allclose(places[1].found.position_lps_mm, corner, atol=1e-6)
    points = np.array([p.found.position_lps_mm for p in places])
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[~np.eye(len(points), dtype=bool)]
    assert len(places) > 2
    assert (gaps >= APART_MM - 1e-3).all()
    words = ranked_places(study, Question("x", QUERY), 1)[0].found
    never_seen = ranked_places(study, about("abnormality", "kidney_stone"), 1)[0].found
    assert never_seen.position_lps_mm == words.position_lps_mm
    hardly_seen = ranked_places(study, about("abnormality", "liver_cyst"), 1)[0].found
    np.testing.assert_allclose(hardly_seen.position_lps_mm, corner, atol=1e-6)


def test_a_name_in_other_words_is_a_name_and_a_sentence_is_more(reader: Reader) -> None:
    """Whatever may be typed for an abnormality, without the dictionary's "There is a"."""
    for entry in reader.abnormalities:
        meaning = reader.question(wording(entry.name)).meaning
        assert meaning is not None
        assert meaning.name == entry.name
        assert meaning.similarity >= NAMED, entry.name
    for sentence in (
        "There is a 16 mm hypoattenuating mass in the left lobe of the liver.",
        "Cyst of the upper pole of the right kidney, 34 mm, unchanged.",
        "New nodule in the right lower lobe measuring 8 mm.",
    ):
        meaning = reader.question(sentence).meaning
        assert meaning is not None
        assert meaning.similarity < NAMED


# The same places by a name and by a sentence.
@pytest.mark.parametrize(("similarity", "first"), [(NAMED, (7, 8, 8)), (NAMED - 0.01, (2, 2, 2))])
def test_words_outweigh_what_was_seen_where_they_differ_enough(
    similarity: float, first: tuple[int, int, int]
) -> None:
    encoding = encoding_of((9, 12, 12))
    features = np.zeros_like(encoding.grid_features)
    features[..., 1] = 1
    features[1:4, 1:4, 1:4, 0] = 1
    (elsewhere,) = encoding.grid.map_indices_to_reference(np.array([[7.0, 8, 8]]))
    seen = (KnownPlace("liver_cyst", tuple(elsewhere), 0.99),)
    study = Searchable(replace(encoding, grid_features=features, known_places=seen))
    found = ranked_places(study, about("abnormality", "liver_cyst", similarity), 1)[0].found
    assert study.cell_at(found.position_lps_mm) == first


def test_words_outweigh_what_was_hardly_seen_of_a_name_too() -> None:
    encoding = encoding_of((9, 12, 12))
    features = np.zeros_like(encoding.grid_features)
    features[..., 1] = 1
    features[6:9, 7:10, 7:10, 0] = 1
    points = encoding.grid.map_indices_to_reference(np.array([[2.0, 2, 2], [7.0, 8, 8]]))
    seen = [KnownPlace("liver_cyst", tuple(p), s) for p, s in zip(points, (0.6, 0.4), strict=True)]
    study = Searchable(replace(encoding, grid_features=features, known_places=tuple(seen)))
    found = ranked_places(study, about("abnormality", "liver_cyst"), 1)[0].found
    assert study.cell_at(found.position_lps_mm) == (7, 8, 8)


@pytest.mark.parametrize(("size", "first"), [(12.0, 0), (40.0, 1), (None, 1)])
def test_a_stated_size_prefers_the_place_of_that_size(size: float | None, first: int) -> None:
    encoding = encoding_of((9, 12, 12))
    encoding = replace(encoding, grid_features=np.full_like(encoding.grid_features, 0.25))
    points = encoding.grid.map_indices_to_reference(np.array([[1.0, 2, 2], [7.0, 8, 8]]))
    small = KnownPlace("liver_tumour", tuple(points[0]), 0.7, 11.0)
    large = KnownPlace("liver_tumour", tuple(points[1]), 0.9, 44.0)
    study = Searchable(replace(encoding, known_places=(small, large)))
    question = replace(about("abnormality", "liver_tumour"), size_mm=size)
    found = ranked_places(study, question, 1)[0].found
    np.testing.assert_allclose(found.position_lps_mm, points[first], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("There is a 16 mm hypoattenuating mass in the liver.", 16.0),
        ("Cyst of 1,6 x 1.2 CM", 16.0),
        ("a 3-cm lesion, formerly 22mm", 30.0),
        ("unchanged (series 3, image 47)", None),
        ("bladder holds 300 ml, 2 cmH2O", None),
        ("900 mm", None),
    ],
)
def test_stated_sizes(text: str, size: float | None) -> None:
    assert stated_size_mm(text) == size


def test_an_organ_is_found_in_its_middle_the_larger_part_first() -> None:
    encoding = encoding_of((9, 12, 12))
    organs = np.zeros_like(encoding.grid_organs)
    features = np.zeros_like(encoding.grid_features)
    features[..., 1] = 1  # all is body
    organs[1:3, 1:3, 1:3] = organ("kidneys").label
    organs[4:7, 6:11, 6:11] = organ("kidneys").label
    study = Searchable(replace(encoding, grid_organs=organs, grid_features=features))
    places = ranked_places(study, about("organ", "kidneys"), 2)
    cells = [study.cell_at(p.found.position_lps_mm) for p in places]
    assert cells[0] == (5, 8, 8)
    assert all(1 <= axis < 3 for axis in cells[1])
    assert [p.found.organ for p in places] == ["kidneys", "kidneys"]


def test_the_heat_map_is_brightest_where_the_first_known_place_is() -> None:
    encoding = encoding_of((9, 12, 12))
    body = np.abs(encoding.grid_features).max(-1, keepdims=True) > 0
    encoding = replace(
        encoding, grid_features=np.where(body, 0.25, 0).astype(np.float16) * np.ones(WIDTH, "f2")
    )
    corner, middle = encoding.grid.map_indices_to_reference(np.array([[2.0, 3, 3], [7.25, 8, 8]]))
    seen = (KnownPlace("liver_cyst", tuple(corner), 0.2), KnownPlace("liver_cyst", tuple(middle), 0.9))
    study = Searchable(replace(encoding, known_places=seen))
    question = about("abnormality", "liver_cyst")
    shown = heat(study, question)
    first = ranked_places(study, question, 1)[0].found
    assert (
        np.unravel_index(int(shown.argmax()), shown.shape)
        == study.cell_at(first.position_lps_mm)
        == (7, 8, 8)
    )
    assert (shown.dtype, float(shown.max())) == (np.dtype(np.float32), 1.0)
    assert not shown[~study.inside].any()
    np.testing.assert_array_equal(heat(study, Question("x", QUERY)), agreement(study, QUERY))
