"""When a study counts as complete, and what happens when more of it comes later."""

from __future__ import annotations

import hashlib
import io
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.archive import Archive, Received
from dicom_node.completeness import Expected, complete_studies, is_complete, open_again
from dicom_node.completeness_settings import CompletenessSettings
from dicom_node.config import Config, Destination
from dicom_node.errors import SightlineError
from dicom_node.expected_instances import Asker
from dicom_node.index import Instance, Study
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.network import Pacs, free_port
from tests.dicom_node.orthanc import AE_TITLE, orthanc
from tests.dicom_node.test_workflow import put
from tests.peers import require

IMAGE = Received(
    sop_instance_uid="1.2.3.1",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    study_instance_uid="1.2",
    series_instance_uid="1.2.3",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    is_ct=True,
    content=b"one",
    sha256=hashlib.sha256(b"one").hexdigest(),
)
LATER = replace(IMAGE, sop_instance_uid="1.2.3.2")


@pytest.fixture
def config(tmp_path: Path, database: str | None) -> Config:
    archive = tmp_path / "archive"
    return Config(archive=archive, database=database, quiet_seconds=10, association_idle_seconds=60)


@pytest.fixture
def archive(config: Config) -> Archive:
    return Archive.open(config)


def test_a_quiet_study_is_complete_once(config: Config, archive: Archive) -> None:
    archive.store(IMAGE)
    assert complete_studies(archive.index, config) == []
    now = time.time() + 11
    (generation,) = complete_studies(archive.index, config, now)
    assert (generation.study_instance_uid, generation.number, generation.state) == ("1.2", 1, "complete")
    assert complete_studies(archive.index, config, now + 100) == []


def test_an_open_association_holds_its_study_back_but_no_other(config: Config, archive: Archive) -> None:
    number = archive.open_association("NODE:1")
    archive.store(IMAGE, number)
    archive.store(replace(IMAGE, sop_instance_uid="9.1", study_instance_uid="9"))
    now = time.time() + 11
    assert [g.study_instance_uid for g in complete_studies(archive.index, config, now)] == ["9"]
    archive.close_association(number)
    assert [g.study_instance_uid for g in complete_studies(archive.index, config, now)] == ["1.2"]


def test_an_association_of_a_dead_receiver_does_not_hold_for_ever(config: Config, archive: Archive) -> None:
    archive.store(IMAGE, archive.open_association("NODE:1"))
    assert complete_studies(archive.index, config, time.time() + 65) == []
    assert len(complete_studies(archive.index, config, time.time() + 71)) == 1


def test_what_comes_late_opens_a_new_generation(config: Config, archive: Archive) -> None:
    archive.store(IMAGE)
    (first,) = complete_studies(archive.index, config, time.time() + 11)
    archive.store(IMAGE)  # the same again is nothing new
    assert complete_studies(archive.index, config, time.time() + 100) == []
    archive.store(LATER)
    assert complete_studies(archive.index, config) == []
    (second,) = complete_studies(archive.index, config, time.time() + 11)
    assert (first.number, second.number) == (1, 2)
    uids = [[row.sop_instance_uid for row in archive.ct_instances(g)] for g in (first, second)]
    assert uids == [["1.2.3.1"], ["1.2.3.1", "1.2.3.2"]]


def test_a_restart_keeps_the_quiet_time_running(config: Config, archive: Archive) -> None:
    archive.store(IMAGE)
    archive.index.close()
    again = Archive.open(config)
    assert complete_studies(again.index, config, time.time() + 5) == []
    assert len(complete_studies(again.index, config, time.time() + 11)) == 1


@given(
    quiet=st.floats(0.1, 1e4),
    idle=st.floats(0.1, 1e4),
    elapsed=st.floats(0, 1e6),
    associations=st.integers(0, 5),
)
def test_waiting_longer_never_makes_a_study_incomplete(
    quiet: float, idle: float, elapsed: float, associations: int
) -> None:
    rule = {"quiet_seconds": quiet, "idle_seconds": idle}
    complete = is_complete(elapsed, 0.0, associations, **rule)
    assert not complete or elapsed >= quiet
    assert is_complete(elapsed + quiet + idle, 0.0, associations, **rule)
    assert is_complete(elapsed, 0.0, 0, **rule) or not complete


def test_the_cap_ends_the_wait_for_a_study_that_never_rests(config: Config, archive: Archive) -> None:
    archive.store(IMAGE, archive.open_association("NODE:1"))
    capped = replace(config, completeness=CompletenessSettings(cap_seconds=15))
    assert complete_studies(archive.index, capped, time.time() + 14) == []
    (generation,) = complete_studies(archive.index, capped, time.time() + 16)
    assert generation.state == "complete"
    assert "completeness.cap_seconds" in (generation.reason or "")


def test_what_is_set_aside_at_the_cap_is_read_when_a_person_wants_it(
    config: Config, archive: Archive
) -> None:
    archive.store(IMAGE, archive.open_association("NODE:1"))
    strict = replace(config, completeness=CompletenessSettings(cap_seconds=15, at_cap="set aside"))
    (aside,) = complete_studies(archive.index, strict, time.time() + 16)
    assert aside.state == "set aside"
    again = open_again(archive.index, "1.2")
    assert again is not None
    assert (again.number, again.state, again.reason) == (2, "complete", None)


def test_the_cap_of_a_late_image_counts_from_that_image(config: Config, archive: Archive) -> None:
    archive.store(IMAGE)
    with archive.index.writing() as session:  # the first image came an hour ago
        session.execute(sa.update(Instance).values(received_at=time.time() - 3600))
        session.execute(sa.update(Study).values(first_ct_at=time.time() - 3600))
    capped = replace(config, completeness=CompletenessSettings(cap_seconds=15))
    assert len(complete_studies(archive.index, capped)) == 1
    archive.store(LATER)
    assert complete_studies(archive.index, capped) == []
    assert len(complete_studies(archive.index, capped, time.time() + 16)) == 1


def test_the_count_of_the_pacs_goes_before_the_quiet_time(config: Config, archive: Archive) -> None:
    archive.store(IMAGE)
    now = time.time()

    def complete(at: float, asked: float, instances: dict[str, int]) -> int:
        answers = {"1.2": Expected(now + asked, instances)}
        return len(complete_studies(archive.index, config, now + at, answers))

    assert complete(at=1000, asked=6, instances={"1.2.3": 2}) == 0  # waits for the second, quiet or not
    assert complete(at=6, asked=1, instances={"1.2.3": 1}) == 0  # the PACS may have been receiving
    assert complete(at=6, asked=6, instances={"1.2.3": 1, "1.2.4": 9}) == 0  # the other may still come
    assert complete(at=11, asked=6, instances={"1.2.3": 1, "1.2.4": 9}) == 1  # or never
    archive.store(LATER)
    assert complete(at=6, asked=6, instances={"1.2.3": 2}) == 1


def test_orthanc_is_asked_how_many_instances_there_are(tmp_path: Path) -> None:
    slices = ct_series()[:5]
    with orthanc(
        require("Orthanc"), tmp_path / "pacs", node_ae_title="SIGHTLINE", node_port=free_port()
    ) as pacs:
        for dataset in slices:
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            pacs.upload(buffer.getvalue())
        config = Config(
            archive=tmp_path / "archive",
            quiet_seconds=1000,
            completeness=CompletenessSettings(ask="pacs", settle_seconds=0.5),
            destinations=(Destination("pacs", "127.0.0.1", pacs.dicom_port, AE_TITLE),),
        )
        archive = Archive.open(config)
        asker = Asker(config, archive.index)
        study = put(archive, slices[:4])
        put(archive, ct_series(uid_root="2.25.99")[:1])  # the PACS does not know this one
        asker.ask_due(time.time() + 1)
        expected = asker.answers()
        assert {uid: answer.instances for uid, answer in expected.items()} == {
            study: {str(slices[0].SeriesInstanceUID): 5}
        }
        later = time.time() + 10
        assert complete_studies(archive.index, config, later, expected) == []
        put(archive, slices[4:])
        asker.ask_due(later)
        (generation,) = complete_studies(archive.index, config, later, asker.answers())
        assert generation.study_instance_uid == study


def test_a_pacs_that_does_not_answer_leaves_it_to_the_quiet_time(tmp_path: Path) -> None:
    pacs = Pacs(free_port())  # answers associations, but to no C-FIND
    config = Config(
        archive=tmp_path / "archive",
        completeness=CompletenessSettings(ask="pacs"),
        destinations=(Destination("pacs", "127.0.0.1", pacs.port, "PACS"),),
    )
    archive = Archive.open(config)
    asker = Asker(config, archive.index)
    put(archive, ct_series()[:1])
    asker.ask_due(time.time() + 10)  # nobody listens
    with pacs.listening():
        asker.ask_due(time.time() + 20)
    assert asker.answers() == {}
    assert len(complete_studies(archive.index, config, time.time() + 31, asker.answers())) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"at_cap": "drop"}, 'completeness.at_cap = \'drop\': must be "read" or "set aside"'),
        ({"cap_seconds": 0.0}, "completeness.cap_seconds = 0.0"),
        ({"settle_seconds": float("nan")}, "completeness.settle_seconds = nan"),
    ],
)
def test_a_bad_rule_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SightlineError, match=re.escape(words)):
        CompletenessSettings(**settings)


def test_only_a_destination_can_be_asked() -> None:
    with pytest.raises(SightlineError, match=r"completeness\.ask = 'pacs': must be the name"):
        Config(completeness=CompletenessSettings(ask="pacs"))
