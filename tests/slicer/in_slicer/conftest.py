"""The application that these tests run in; it must stand before a test file imports Slicer's parts."""

from __future__ import annotations

import sys

import pytest

from tests.slicer.harness.application import Application

_APPLICATION = pytest.StashKey[Application]()


def pytest_configure(config):
    application = Application()
    application.load_module("Sightline")
    config.stash[_APPLICATION] = application


@pytest.fixture(scope="session")
def application(request) -> Application:
    """One for the process; see `scene` for a clean start."""
    return request.config.stash[_APPLICATION]


@pytest.fixture
def scene(application):
    """An empty scene and a user who has set nothing yet."""
    application.close_scene()
    application.settings.clear()
    yield application.scene
    application.close_scene()


@pytest.fixture
def raised(monkeypatch):
    """What slots have raised: Qt prints it and goes on, so a test must look."""
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _kind, error, _trace: seen.append(error))
    return seen


@pytest.fixture(autouse=True)
def _nothing_raised(raised):
    yield
    assert raised == []


@pytest.fixture
def widget(application, scene):
    """The module's widget, opened."""
    opened = application.open_module(sys.modules["Sightline"])
    yield opened
    opened.cleanup()
    opened.parent.deleteLater()
