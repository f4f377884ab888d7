"""An outage is waited out; an error is not."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.index import Index, Instance
from dicom_node.outages import is_outage, outlast
from tests.dicom_node.network import wait_until
from tests.dicom_node.postgres import postgres, programs
from tests.peers import missing


def test_work_is_repeated_until_the_disk_has_room() -> None:
    full = [OSError(errno.ENOSPC, "No space left on device")] * 2

    def work() -> str:
        if full:
            raise full.pop()
        return "done"

    assert outlast(work, "work") == "done"


def test_an_error_is_raised_at_once_and_an_outage_when_there_is_no_more_time() -> None:
    def broken() -> None:
        raise ValueError("bad header")

    def full() -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(ValueError, match="bad header"):
        outlast(broken, "work")
    stop = threading.Event()
    stop.set()
    with pytest.raises(OSError, match="quota"):
        outlast(full, "work", stop)


def test_a_wrong_statement_is_no_outage(tmp_path: Path) -> None:
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    with index.reading() as session, pytest.raises(sa.exc.OperationalError) as wrong:
        session.execute(sa.text("SELECT nothing FROM nowhere"))
    assert not is_outage(wrong.value)


def test_a_database_that_is_gone_and_back_is_an_outage_and_no_more() -> None:
    binaries = programs()
    if binaries is None:
        missing("PostgreSQL is not installed (see .ci/run for the packages that the tests need)")

    def count() -> int:
        with index.writing() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(Instance)) or 0

    with postgres(binaries) as server:
        index = Index(server.new_database())
        assert count() == 0
        server.stop()
        with pytest.raises(sa.exc.OperationalError) as gone:
            count()
        assert is_outage(gone.value)
        counted: list[int] = []
        waiting = threading.Thread(target=lambda: counted.append(outlast(count, "counting")))
        waiting.start()
        time.sleep(0.3)
        assert counted == []
        server.start()
        wait_until(lambda: counted == [0], 30, "the count after the database came back")
        waiting.join()
        index.close()
