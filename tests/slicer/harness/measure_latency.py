"""Times of the extension in the harness against a running service; for `benchmarks.extension_latency`.

A process of its own, for Slicer's libraries. Prints one JSON document. What an operation takes is measured
from the key or click to the answer on the screen; how long the window stood still, by a 10 ms timer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.slicer.harness.application import Application
from tests.slicer.harness.real_service import load_ct
from tests.slicer.harness.waiting import Ticks, wait_until

SIZES, PLACES = ("small", "tiny", "large"), ("left", "right", "upper", "lower", "central")
THINGS = ("liver lesion", "renal cyst", "lung nodule", "bone metastasis", "pancreatic mass", "gallstone")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder of the CT's DICOM files")
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", type=Path, required=True, help="file")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--queries-only", action="store_true")
    given = parser.parse_args()
    application = Application()
    module = application.load_module("Sightline")
    # After the application: these need what it puts into place.
    from tests.slicer.harness import phantom  # noqa: PLC0415
    from tests.slicer.harness.operator import Operator  # noqa: PLC0415

    user = Operator(
        application.open_module(module), given.url, given.token.read_text(encoding="ascii").strip()
    )
    voxels, grid, series = load_ct(given.images)
    user.choose(phantom.add_voxels(voxels, grid, series))
    for box in ("maskBox", "heatMapBox"):
        user.click(box)
    operations = {"findings and lesions": operation(user, lambda: user.click("openButton"))}
    texts = [" ".join(words) for words in itertools.product(SIZES, PLACES, THINGS)][: given.questions]
    result = {"first_time": queries(user, texts), "asked_again": queries(user, texts[-10:])}
    if not given.queries_only:
        operations |= others(user, lambda: phantom.add_voxels(voxels, grid, "1.2.826.0.1.3680043.8.498.9"))
    print(json.dumps({"matrix": voxels.shape[::-1], **result, "operations": operations}))


def queries(user, texts: list[str]) -> dict[str, float]:
    """From Enter to the jump, ms."""
    taken = []
    with Ticks() as ticks:
        for text in texts:
            user.ui.statusLabel.setText("")
            user.type(text)
            start = time.perf_counter()
            user.press(user_key())
            wait_until(lambda: user.says.startswith("Place 1 of"))
            taken.append(1000 * (time.perf_counter() - start))
            user.wait()
    return {
        "questions": len(taken),
        "ms_p50": round(float(np.percentile(taken, 50)), 1),
        "ms_p95": round(float(np.percentile(taken, 95)), 1),
        **gaps(ticks),
    }


def gaps(ticks: Ticks) -> dict[str, float]:
    """The widest gap between two ticks, and the most processor time of the window's thread in one; ms."""
    return {
        "widest_gap_ms": round(1000 * ticks.worst_gap_s, 1),
        "most_work_ms": round(1000 * ticks.most_work_s, 1),
    }


def user_key():
    """Enter."""
    from PySide6 import QtCore  # noqa: PLC0415

    return QtCore.Qt.Key.Key_Return


def operation(user, start: Callable[[], None]) -> dict[str, float | str]:
    """Seconds until nothing is under way, and the window's gaps meanwhile."""
    begin = time.perf_counter()
    with Ticks() as ticks:
        start()
        wait_until(lambda: not user.busy, seconds=900)
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        **gaps(ticks),
        "says": user.says,
    }


def others(user, add_unknown: Callable) -> dict[str, dict]:
    """Everything but the queries."""
    found = {}
    user.click("heatMapBox")
    found["query with heat map"] = operation(user, lambda: user.ask("hypodense liver lesion"))
    user.click("heatMapBox")
    user.click("maskBox")
    found["query with outline"] = operation(user, lambda: user.ask("hypodense liver lesion"))
    user.click("maskBox")
    found["organs"] = operation(user, lambda: user.click("organsButton"))
    user.panel.results.find("lesions").GetSegmentation().AddEmptySegment("new", "new")
    user.click_row("findingsTable", 0)
    user.click("acceptButton")
    user.ui.observerLine.setText("Doe, Jane")
    found["correction"] = operation(user, lambda: user.click("correctButton"))
    user.choose(add_unknown())
    user.wait()
    user.ask("hypodense liver lesion")
    user.wait()
    found["upload and its reading"] = operation(user, lambda: user.click("sendCtButton"))
    return found


if __name__ == "__main__":
    main()
