"""Asks the extension in the harness and notes where the red slice stands; for `benchmarks.extension_queries`.

A process of its own, for Slicer's libraries. It knows the planted lesions only to draw them into the picture
after the answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.slicer.harness.application import Application
from tests.slicer.harness.waiting import wait_until

VIEW = 320
PATIENCE_S = 600


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder of `benchmarks.query_cases`")
    parser.add_argument("--questions", type=Path, required=True, help="JSON lines")
    parser.add_argument("--answers", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--url", required=True)
    given = parser.parse_args()
    token = (given.work / "archive" / "service.token").read_text(encoding="ascii").strip()
    asked = [json.loads(line) for line in given.questions.read_text(encoding="utf-8").splitlines()]
    asker = Asker(given.work, given.url, token)
    for question in asked:
        answer = asker.ask(question)
        with given.answers.open("a", encoding="utf-8") as file:
            file.write(json.dumps(answer) + "\n")
        print(f"{answer['key']}: {answer['says']}", file=sys.stderr, flush=True)


class Asker:
    """One opened module and the patient in it."""

    def __init__(self, work: Path, url: str, token: str) -> None:
        # After the application: these need what it puts into place.
        from tests.slicer.harness.operator import Operator  # noqa: PLC0415

        self.work = work
        self.application = Application(VIEW)
        module = self.application.load_module("Sightline")
        self.user = Operator(self.application.open_module(module), url, token)
        # A busy machine is slow, not wrong.
        self.user.panel.session._patienceS = PATIENCE_S
        # The outline is work on the images, and nothing that the jump waits for.
        self.user.click("maskBox")
        self._seed, self._volume, self._lesions = None, None, None

    def ask(self, question: dict) -> dict:
        """Type, Enter, and where the red slice stands then."""
        self._patient(question["seed"])
        table = self.user.ui.hitsTable
        start = time.perf_counter()
        self.user.ask(question["text"])
        wait_until(lambda: not self.user.busy, seconds=PATIENCE_S)
        seconds = time.perf_counter() - start
        if not self.user.says.startswith("Place 1 of"):
            raise RuntimeError(f"no place for {question['text']!r}: {self.user.says}")
        red = self.application.views["Red"].centre_ras()
        self._picture(question)
        return {
            "key": question["key"],
            "red_lps_mm": (red * [-1, -1, 1]).tolist(),
            "says": self.user.says,
            "places": table.rowCount(),
            "seconds": round(seconds, 3),
        }

    def _patient(self, seed: int) -> None:
        from tests.slicer.harness import phantom  # noqa: PLC0415

        if seed == self._seed:
            return
        self.application.close_scene()
        folder = self.work / "cases" / str(seed)
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        voxels = np.load(folder / "voxels.npz")
        affine = voxels["affine"]
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = affine[:3, 2::-1], affine[:3, 3]
        grid = phantom.Grid(matrix, voxels["hu"].shape[::-1])
        self._volume = phantom.add_voxels(voxels["hu"], grid, about["series_instance_uid"], f"Patient {seed}")
        self._lesions, self._seed = voxels["lesions"], seed
        self.user.choose(self._volume)
        self.user.wait()

    def _picture(self, question: dict) -> None:
        """The red view as it stands, with the outline of the planted lesions where it cuts them."""
        import slicer  # noqa: PLC0415

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "planted")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(self._volume)
        node.GetSegmentation().AddEmptySegment("planted", "planted", (0.1, 1.0, 0.1))
        mask = np.isin(self._lesions, question["mask_values"]).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "planted", self._volume)
        display = node.GetDisplayNode()
        display.SetOpacity2DFill(0.0)
        display.SetSliceIntersectionThickness(2)
        picture = self.application.views["Red"].picture()
        name = question["key"].replace("/", "_")
        Image.fromarray(picture).save(self.work / "pictures" / f"{name}.png")
        for each in (node, display):
            slicer.mrmlScene.RemoveNode(each)


if __name__ == "__main__":
    main()
