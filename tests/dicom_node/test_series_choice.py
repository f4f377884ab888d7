"""The choice between readable series: the rules, the configuration, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset

from dicom_node.config import load_config
from dicom_node.errors import SightlineError
from dicom_node.series import CandidateSeries, survey_files
from dicom_node.series_choice import choose_series, kernel_softness, why_not
from dicom_node.series_settings import SeriesSettings
from dicom_node.sources import open_ct
from tests.dicom_node.ct_files import ROOT, write_ct

Changes = dict[str, object]


def setting(values: Changes) -> Callable[[FileDataset, int], None]:
    """A change that sets elements of every slice; coronal slices are put in a row."""

    def change(dataset: FileDataset, k: int) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        if "ImageOrientationPatient" in values:
            dataset.ImagePositionPatient = [0, 2.5 * k, 0]

    return change


def two_series(
    folder: Path, first: Changes, second: Changes, settings: SeriesSettings | None = None
) -> list[CandidateSeries]:
    """The readable ones of two series, whose UIDs end in 20 and 30."""
    paths = write_ct(folder / "a", series=f"{ROOT}.20", change=setting(first))
    paths += write_ct(folder / "b", series=f"{ROOT}.30", change=setting(second))
    return list(survey_files(paths, settings=settings or SeriesSettings()).candidates)


@pytest.mark.parametrize(
    ("better", "worse", "words"),
    [
        ({}, {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "coronal, not axial; "),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "computed from other images; "),
        ({"ConvolutionKernel": "B31f"}, {"ConvolutionKernel": "B70f"}, "less suitable kernel (B70f); "),
        ({"ConvolutionKernel": "STANDARD"}, {"ConvolutionKernel": "LUNG"}, "less suitable kernel (LUNG); "),
        ({"ContrastBolusAgent": "APPLIED"}, {}, "without contrast agent; "),
        ({"SeriesNumber": 2}, {"SeriesNumber": 5}, "as good as "),
    ],
)
def test_the_better_series_is_chosen(tmp_path: Path, better: Changes, worse: Changes, words: str) -> None:
    candidates = two_series(tmp_path, worse, better)
    assert len(candidates) == 2
    for order in (candidates, candidates[::-1]):
        chosen = choose_series(order)
        assert chosen.series_instance_uid == f"{ROOT}.30"
        (other,) = (one for one in candidates if one is not chosen)
        reason = why_not(other, chosen)
        assert words in reason
        assert f"series {chosen.number} 'TEST'" in reason


def test_more_body_beats_thinner_slices_and_thinner_beats_thicker(tmp_path: Path) -> None:
    thick = write_ct(tmp_path / "a", series=f"{ROOT}.1", n_slices=21, spacing=(5, 1, 1))
    thin = write_ct(tmp_path / "b", series=f"{ROOT}.2", n_slices=51, spacing=(2, 1, 1))
    short = write_ct(tmp_path / "c", series=f"{ROOT}.3", n_slices=31, spacing=(1, 1, 1))
    candidates = survey_files(thick + thin + short).candidates
    assert choose_series(candidates).series_instance_uid == f"{ROOT}.2"


def test_kernels_of_four_vendors() -> None:
    soft = ["B31f", "Br38\\3", "I30f", "FC18", "STANDARD", "SOFT", "B", "YA", "UB"]
    sharp = ["B60s", "Br64", "I70f", "FC52", "LUNG", "BONEPLUS", "L", "YC"]
    assert [kernel_softness(k) for k in soft] == [2] * len(soft)
    assert [kernel_softness(k) for k in sharp] == [0] * len(sharp)


def test_the_configuration_prefers_and_excludes_by_description(tmp_path: Path) -> None:
    soft = {"SeriesDescription": "ABD arterial 1.0", "ConvolutionKernel": "B31f"}
    sharp = {"SeriesDescription": "Abd PORTAL 5.0", "ConvolutionKernel": "B70f"}
    candidates = two_series(tmp_path, soft, sharp)
    assert choose_series(candidates).description == "ABD arterial 1.0"
    preferring = SeriesSettings(prefer=("nowhere", "portal|venous"))
    chosen = choose_series(candidates, preferring)
    assert chosen.description == "Abd PORTAL 5.0"
    assert why_not(candidates[0], chosen, preferring).startswith("not preferred; ")
    assert choose_series(candidates, SeriesSettings(kernels=("B7",))).description == "Abd PORTAL 5.0"
    survey = survey_files(sorted(tmp_path.rglob("*.dcm")), settings=SeriesSettings(exclude=("arterial",)))
    assert [one.description for one in survey.candidates] == ["Abd PORTAL 5.0"]
    assert "matches 'arterial', which series.exclude names" in survey.refusals[0].reason


def test_a_reformat_is_read_only_where_the_configuration_says_so(tmp_path: Path) -> None:
    derived = {
        "ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"],
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    }

    def place(dataset: FileDataset, k: int) -> None:
        setting(derived)(dataset, k)
        dataset.ImagePositionPatient = [2.5 * k, 0, 0]

    paths = write_ct(tmp_path, change=place)
    (refusal,) = survey_files(paths).refusals
    assert refusal.reason.startswith("sagittal reformat, computed from other slices")
    assert len(survey_files(paths, settings=SeriesSettings(reformats=True)).candidates) == 1
    assert open_ct(tmp_path).not_read == ()  # whoever names a path wants it read


def test_the_same_slices_twice_are_named_as_such(tmp_path: Path) -> None:
    times = {"AcquisitionTime": "101112", "SeriesNumber": 2}
    first, second = two_series(tmp_path, times, {**times, "SeriesNumber": 5})
    assert choose_series([second, first]) is first
    assert why_not(second, first) == "the same slices as series 2 'TEST' once more"


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("AcquisitionNumber", "acquisition"),
        ("TemporalPositionIdentifier", "temporal position"),
        ("ConvolutionKernel", "kernel"),
        ("NominalPercentageOfCardiacPhase", "cardiac phase"),
    ],
)
def test_phases_in_one_series_are_told_apart(tmp_path: Path, keyword: str, name: str) -> None:
    paths = []
    for phase in (1, 2):

        def change(dataset: FileDataset, k: int, phase: int = phase) -> None:
            setattr(dataset, keyword, float(phase) if "Percentage" in keyword else str(phase))
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = (
                f"{ROOT}.5.{phase}.{k + 1}"
            )

        paths += write_ct(tmp_path / str(phase), change=change)
    survey = survey_files(paths)
    values = ["1.0", "2.0"] if "Percentage" in keyword else ["1", "2"]
    assert [one.part for one in survey.candidates] == [f"{name} {value}" for value in values]
    assert [len(one.instances) for one in survey.candidates] == [12, 12]
    assert choose_series(survey.candidates[::-1]).title == f"series 3 'TEST', {name} {values[0]}"
    assert not survey.refusals


def test_phases_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    def again(dataset: FileDataset, k: int) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.6.{k + 1}"

    (refusal,) = survey_files(write_ct(tmp_path / "a") + write_ct(tmp_path / "b", change=again)).refusals
    assert refusal.reason.startswith("24 images at only 12 positions, and nothing in their headers tells")


def test_bolus_tracking_is_named_by_its_description(tmp_path: Path) -> None:
    def watch(dataset: FileDataset, k: int) -> None:
        dataset.SeriesDescription, dataset.AcquisitionNumber = "Premonitoring", k
        dataset.ImagePositionPatient = [0, 0, 0]

    (refusal,) = survey_files(write_ct(tmp_path, change=watch)).refusals
    assert refusal.reason == "bolus tracking: all 12 images lie at the same position"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('prefer = ["("]', "series.prefer = '(': is no regular expression"),
        ('exclude = [""]', "series.exclude: a pattern is empty"),
        ("minimum_slices = 1", "series.minimum_slices = 1: a volume needs 2 or more"),
        ("slice_mm = 0", "series.slice_mm = 0.0: must be more than 0"),
        ("kernel = []", "did you mean series.kernels?"),
    ],
)
def test_a_bad_series_table_is_refused(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f"[series]\n{line}\n")
    with pytest.raises(SightlineError) as caught:
        load_config(path)
    assert words in caught.value.message


def test_a_series_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[series]\nprefer = ["portal"]\nminimum_slices = 4\nreformats = true\n')
    assert load_config(path).series == SeriesSettings(prefer=("portal",), minimum_slices=4, reformats=True)
