"""What several of the node's tests share: the databases under the index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dicom_node.postgres import Postgres, postgres, programs
from tests.peers import missing


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server, one for all tests of a process."""
    binaries = programs()
    if binaries is None:
        missing("PostgreSQL is not installed (see .ci/run for the packages that the tests need)")
    with postgres(binaries) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """`Config.database` of an empty index, on each database: None is SQLite in the archive."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.new_database()
