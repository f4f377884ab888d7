"""The application that these tests run in; it must stand before a test file imports Slicer's parts."""

from __future__ import annotations

import pytest

from tests.slicer.harness.application import Application

_APPLICATION = pytest.StashKey[Application]()


def pytest_configure(config):
    config.stash[_APPLICATION] = Application()


@pytest.fixture(scope="session")
def application(request) -> Application:
    """One for the process; see `scene` for a clean start."""
    return request.config.stash[_APPLICATION]


@pytest.fixture
def scene(application):
    """An empty scene."""
    application.close_scene()
    yield application.scene
    application.close_scene()
