"""Schemathesis over the published OpenAPI: whatever is sent, no 500, and every answer as described.

Short here; ``python -m benchmarks.fuzz_service`` does the same for as long as one likes, on a real node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.dicom_node.service.stage import TOKEN, Stage, make_stage, series

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = make_stage(tmp_path_factory.mktemp("fuzz"))
    stage.read(series())
    stage.parts.search.refresh()
    with stage.parts.running():
        yield stage


@pytest.fixture(scope="module")
def api(working: Stage) -> Any:
    return schemathesis.openapi.from_asgi("/api/1/openapi.json", working.client.app, headers=HEADERS)


schema = schemathesis.pytest.from_fixture("api")
asked = {"n": 0}


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_answered_as_described(case: Any) -> None:
    asked["n"] += 1
    if asked["n"] % 2 and "study_uid" in (case.path_parameters or {}):
        case.path_parameters["study_uid"] = "2.25.304.1"  # one that is read: deeper than a 404
    case.call_and_validate(
        headers=HEADERS,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
