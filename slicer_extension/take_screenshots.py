"""Takes the pictures of the documentation from the real panel and the real slice views.

``python -m slicer_extension.take_screenshots docs`` at the root of the repository, with the extra
``slicer`` installed. Not a test: the CT is a phantom and the server that of the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from PySide6 import QtGui

from tests.slicer.harness import phantom
from tests.slicer.harness.application import Application
from tests.slicer.harness.operator import Operator
from tests.slicer.harness.server import SERIES, ContractServer
from tests.slicer.harness.waiting import run_for


def grab(operator: Operator) -> np.ndarray:
    """The panel as it is, (rows, columns, 3)."""
    run_for(0.2)
    image = operator.widget.parent.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()


def beside(panel: np.ndarray, views: list[np.ndarray]) -> Image.Image:
    """The panel with the slice views in a column on its right."""
    column = np.concatenate(views)
    height = max(len(panel), len(column))
    parts = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0))) for p in (panel, column)]
    return Image.fromarray(np.concatenate(parts, axis=1))


def main(folder: Path) -> None:
    """Ask, look, fail, and save what is seen."""
    application = Application(view_size=450)
    grid = phantom.grid(spacing=2.5)
    widget = application.open_module(application.load_module("Sightline"))
    with ContractServer(grid) as server:
        user = Operator(widget, server.url)
        widget.parent.resize(480, 1100)
        user.choose(phantom.add_volume(grid, SERIES, "CT abdomen"))
        user.ask("hypodense liver lesion")
        user.wait()
        user.click_row("findingsTable", 0)
        user.click("acceptButton")
        user.click_row("hitsTable", 0)
        views = [application.views[name].picture() for name in ("Red", "Green")]
        beside(grab(user), views).save(folder / "slicer.png", optimize=True)
        server.known.clear()
        user.choose(phantom.add_volume(grid, "1.2.3.4", "CT from elsewhere"))
        user.wait()
        Image.fromarray(grab(user)).save(folder / "slicer_consent.png", optimize=True)
    user.ui.addressLine.setText("127.0.0.1:9")
    user.click("testButton")
    user.wait()
    Image.fromarray(grab(user)).save(folder / "slicer_down.png", optimize=True)
    widget.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
