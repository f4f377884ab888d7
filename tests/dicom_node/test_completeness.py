"""When a study counts as complete, and what happens when more of it comes later."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.archive import Archive, Received
from dicom_node.completeness import complete_studies, is_complete
from dicom_node.config import Config

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
