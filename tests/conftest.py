"""Settings that hold for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A busy machine is slow, not wrong.
settings.register_profile("sightline", deadline=None)
settings.load_profile("sightline")


def pytest_configure(config: pytest.Config) -> None:
    """Workers of pytest-xdist share the cores: more threads than cores take longer than one after another."""
    if hasattr(config.option, "loadscopereorder"):
        # Files are handed out in the order below; by itself pytest-xdist begins with those of many tests.
        config.option.loadscopereorder = False
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        # For the node's processes, which tests start: each would take all cores.
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        # Not above: where Slicer's libraries are tested torch must not be imported.
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test first: begun last, one of them would keep a single process busy at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
