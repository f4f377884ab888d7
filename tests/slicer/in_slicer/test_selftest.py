"""The self test for the real application runs in the harness too, so that it cannot rot."""

from __future__ import annotations

import sys

from PIL import Image


def test_self_test(application, widget):
    sys.modules["Sightline"].SightlineTest().runTest()


def test_the_icon_is_as_the_index_wants_it(application):
    icon = application.extension / "Sightline" / "Resources" / "Icons" / "Sightline.png"
    with Image.open(icon) as image:
        assert image.size == (128, 128)
        assert image.mode == "RGBA"
    assert icon.stat().st_size < 20_000
