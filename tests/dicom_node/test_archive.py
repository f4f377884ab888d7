"""The archive keeps what it acknowledges, once, under names that no sender chooses."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.archive import Archive, ConflictingInstanceError, Received, Stored, is_uid
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import Index, Instance, Schema, Study


def received(uid: str = "1.2.3", content: bytes = b"content", is_ct: bool = True) -> Received:
    return Received(
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        study_instance_uid="1.2",
        series_instance_uid="1.2.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        is_ct=is_ct,
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.fixture
def archive(tmp_path: Path, database: str | None) -> Archive:
    return Archive.open(Config(archive=tmp_path / "archive", database=database))


def test_a_stored_instance_is_on_disk_and_in_the_index(archive: Archive) -> None:
    assert archive.store(received()) is Stored.NEW
    path = archive.path("1.2.3")
    assert path.read_bytes() == b"content"
    assert path.is_relative_to(archive.root)
    assert "1.2.3" not in str(path.relative_to(archive.root))
    with archive.index.reading() as session:
        row = session.scalars(sa.select(Instance)).one()
        study = session.scalars(sa.select(Study)).one()
    assert (row.sop_instance_uid, row.size) == ("1.2.3", 7)
    assert (study.waiting, study.last_ct_id) == (True, row.id)


def test_the_same_again_changes_nothing_and_another_content_is_refused(archive: Archive) -> None:
    archive.store(received())
    with archive.index.writing() as session:
        session.execute(sa.update(Study).values(waiting=False))
    assert archive.store(received()) is Stored.SAME
    with pytest.raises(ConflictingInstanceError):
        archive.store(received(content=b"other"))
    assert archive.path("1.2.3").read_bytes() == b"content"
    with archive.index.reading() as session:
        assert session.scalars(sa.select(Study)).one().waiting is False
        assert session.scalar(sa.select(sa.func.count()).select_from(Instance)) == 1


def test_what_is_no_ct_leaves_no_study_waiting(archive: Archive) -> None:
    archive.store(received(is_ct=False))
    with archive.index.reading() as session:
        assert session.scalars(sa.select(Study)).all() == []


def test_one_uid_over_many_associations_at_once_is_stored_once(archive: Archive) -> None:
    outcomes: list[Stored | str] = []

    def store(content: bytes) -> None:
        try:
            outcomes.append(archive.store(received(content=content)))
        except ConflictingInstanceError:
            outcomes.append("conflict")

    threads = [threading.Thread(target=store, args=(bytes([65 + n % 2]) * 9,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Stored.NEW) == 1
    assert outcomes.count("conflict") == 6
    with archive.index.reading() as session:
        row = session.scalars(sa.select(Instance)).one()
    assert hashlib.sha256(archive.path("1.2.3").read_bytes()).hexdigest() == row.sha256
    assert list(archive.root.glob("instances/*/*.part")) == []


def test_a_write_that_fails_leaves_neither_file_nor_row(archive: Archive, tmp_path: Path) -> None:
    folder = archive.path("1.2.3").parent
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        archive.store(received())
    with archive.index.reading() as session:
        assert session.scalars(sa.select(Instance)).all() == []


def test_unfinished_files_of_a_killed_receiver_are_removed(archive: Archive) -> None:
    part = archive.incoming_folder("NODE:1") / "0.part"
    part.write_bytes(b"half")
    assert archive.remove_unfinished("NODE:2") == 0  # another receiver's is none of its business
    assert archive.remove_unfinished("NODE:1") == 1
    assert not part.exists()


def test_an_archive_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SightlineError, match="archive = "):
        Archive.open(Config(archive=tmp_path / "file"))


def test_an_index_of_another_version_or_no_database_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    index = Index(url)
    with index.writing() as session:
        session.execute(sa.update(Schema).values(version=99))
    with pytest.raises(SightlineError, match="version 99"):
        Index(url)
    (tmp_path / "text.sqlite").write_text("this is not a database, whatever its name says" * 30)
    with pytest.raises(SightlineError, match="cannot be opened"):
        Index(f"sqlite:///{tmp_path / 'text.sqlite'}")


def test_two_processes_may_make_the_index_at_once(tmp_path: Path, database: str | None) -> None:
    url = database or f"sqlite:///{tmp_path / 'index.sqlite'}"
    code = "import sys; from dicom_node.index import Index; Index(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]


def test_the_archive_is_not_open_to_other_users(archive: Archive) -> None:
    assert stat.S_IMODE(archive.root.stat().st_mode) == 0o700


@given(st.text(alphabet="0123456789./\\\x00u", max_size=80))
def test_no_text_that_passes_as_uid_can_leave_a_folder(text: str) -> None:
    if is_uid(text):
        assert set(text) <= set("0123456789.")
        assert ".." not in text
        assert len(text) <= 64
