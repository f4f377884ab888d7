"""Schemathesis over the published OpenAPI: whatever is sent, no 500, and every answer as described.

Short here; ``python -m benchmarks.fuzz_service`` does the same for as long as one likes, on a real node.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.dicom_node.service.stage import TOKEN, Stage, make_stage, series

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
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


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_whatever_is_sent_is_answered_as_described(api: Any, mode: schemathesis.GenerationMode) -> None:
    paths = set()
    for result in api.get_all_operations():
        operation = result.ok()
        paths.add(operation.path)
        _fuzz(operation, mode)
    assert len(paths) > 10


def _fuzz(operation: Any, mode: schemathesis.GenerationMode) -> None:
    numbers = itertools.count()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=8, database=None, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        if next(numbers) % 2 and "study_uid" in (case.path_parameters or {}):
            case.path_parameters["study_uid"] = "2.25.304.1"  # one that is read: deeper than a 404
        case.call_and_validate(headers=HEADERS, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:  # nothing wrong can be sent to a path that takes nothing
        assert mode is schemathesis.GenerationMode.NEGATIVE
