"""One archive with two read studies for all tests that change nothing."""

from __future__ import annotations

import pytest

from tests.dicom_node.service.stage import Stage, make_stage, series


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Two studies, 2.25.304.1 (axial) and 2.25.305.1 (oblique), both read."""
    stage = make_stage(tmp_path_factory.mktemp("service"))
    assert stage.read(series()) == STUDY
    assert stage.read(series("2.25.305", "oblique")) == OBLIQUE
    return stage


STUDY, OBLIQUE = "2.25.304.1", "2.25.305.1"
