"""Fixtures that several test packages share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests import peers

# A busy machine is slow, not wrong.
settings.register_profile("sightline", deadline=None)
settings.load_profile("sightline")


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """`tests.peers.require`: path of a foreign program, else skip (fail under ``CI=true``)."""
    return peers.require


@pytest.fixture(scope="session")
def shared_data() -> Callable[..., Path]:
    """`tests.peers.shared_data`: path of shared test input, else skip."""
    return peers.shared_data
