"""Both databases keep the promises of the index, and archives of earlier versions open."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import SCHEMA_VERSION, Base, Index, Instance, Schema, Study, Worker
from tests.dicom_node.test_completeness import IMAGE


@pytest.fixture
def url(tmp_path: Path, database: str | None) -> str:
    return database or f"sqlite:///{tmp_path / 'index.sqlite'}"


def test_an_index_of_version_1_opens_with_all_that_is_in_it(tmp_path: Path, database: str | None) -> None:
    config = Config(archive=tmp_path / "archive", database=database)
    archive = Archive.open(config)
    archive.store(IMAGE)
    archive.index.close()
    engine = sa.create_engine(config.database_url)
    with engine.begin() as connection:  # what version 1 did not have
        Base.metadata.tables["worker"].drop(connection)
        connection.execute(sa.text("ALTER TABLE delivery DROP COLUMN reason"))
        connection.execute(sa.update(Schema).values(version=1))
    engine.dispose()
    again = Archive.open(config)
    with again.index.reading() as session:
        assert session.scalars(sa.select(Schema.version)).all() == [SCHEMA_VERSION]
        assert session.scalars(sa.select(Instance.sop_instance_uid)).all() == ["1.2.3.1"]
        assert session.scalars(sa.select(Worker)).all() == []
    columns = {c["name"] for c in sa.inspect(sa.create_engine(config.database_url)).get_columns("delivery")}
    assert "reason" in columns


def test_of_two_that_write_the_second_sees_what_the_first_wrote(url: str) -> None:
    index = Index(url)
    with index.writing() as session:
        session.add(Study(study_instance_uid="1", first_ct_at=0, last_ct_at=0, last_ct_id=0, waiting=False))

    def increment() -> None:
        for _ in range(10):
            with index.writing() as session:
                study = session.get_one(Study, "1")
                seen = study.last_ct_id
                time.sleep(0.001)
                study.last_ct_id = seen + 1

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with index.reading() as session:
        assert session.get_one(Study, "1").last_ct_id == 40


def test_a_reading_transaction_sees_one_state(url: str) -> None:
    index = Index(url)
    with index.reading() as session:
        assert session.scalars(sa.select(Study)).all() == []
        with index.writing() as other:
            other.add(Study(study_instance_uid="1", first_ct_at=0, last_ct_at=0, last_ct_id=0, waiting=True))
        assert session.scalars(sa.select(Study)).all() == []
    with index.reading() as session:
        assert len(session.scalars(sa.select(Study)).all()) == 1


def test_numbers_may_outgrow_32_bits(url: str) -> None:
    index = Index(url)
    with index.writing() as session:
        session.add(
            Study(study_instance_uid="1", first_ct_at=0, last_ct_at=0, last_ct_id=2**40, waiting=True)
        )
    with index.reading() as session:
        assert session.get_one(Study, "1").last_ct_id == 2**40


@pytest.mark.parametrize(
    ("database", "words"),
    [
        ("postgres", "write postgresql"),
        ("mysql://host/name", "write postgresql|must be sqlite or postgresql"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/name", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_is_named_without_its_password(database: str, words: str) -> None:
    with pytest.raises(SightlineError, match=words) as refused:
        Index(database)
    assert "secret" not in str(refused.value)
