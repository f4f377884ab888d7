"""A PACS that routes everything back to the node, its own results too: still one reading.

``python -m benchmarks.loop_campaign --seconds 120``. Debian's Orthanc calls a study stable and sends the
whole of it to the node; the node's results make the study stable again, and so on.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.campaign_node import Role, node
from benchmarks.campaign_peers import SHAPE
from benchmarks.kill_campaign import SETTLE_SECONDS, campaign_config
from dicom_node.archive import Archive
from dicom_node.config import Destination
from dicom_node.index import Generation, Instance, ReadingRow
from tests.dicom_node.ct_series import ct_series
from tests.dicom_node.orthanc import AE_TITLE, Orthanc, orthanc


@dataclass(frozen=True)
class Figures:
    """What came of it.

    Attributes
    ----------
    seconds: for how long the PACS went on routing after the results were there.
    routed: how often it sent the study to the node.
    readings, generations: of the study.
    results: objects other than CT at the PACS when it had the first report, and at the end.
    came_back: results that the PACS sent back to the node, which keeps them and reads nothing.
    """

    seconds: float
    routed: int
    readings: int
    generations: int
    results: tuple[int, int]
    came_back: int

    @property
    def is_one_reading(self) -> bool:
        """Whether the loop came to its end at the node, and was a loop at all."""
        once = self.readings == self.generations == 1 and self.results[0] == self.results[1] > 0
        return once and self.routed > 1 and self.came_back > 0


def run(program: str, folder: Path, seconds: float) -> Figures:
    """Let Orthanc (`program`) route a study to a node, and its results too, for so long."""
    config = campaign_config(folder)
    with orthanc(
        program, folder / "pacs", node_ae_title=config.ae_title, node_port=config.port, stable_seconds=1
    ) as pacs:
        config = dataclasses.replace(
            config, destinations=(Destination("pacs", "127.0.0.1", pacs.dicom_port, AE_TITLE),)
        )
        archive = Archive.open(config)
        with node(config, [Role("receiver"), Role("reader")], folder / "node.log"):
            for image in ct_series(shape=SHAPE):
                buffer = io.BytesIO()
                image.save_as(buffer, enforce_file_format=True)
                pacs.upload(buffer.getvalue())
            _wait_for_report(pacs)
            first = len(pacs.objects())
            time.sleep(seconds)
            figures = _figures(archive, pacs, seconds, first)
        archive.index.close()
    return figures


def _wait_for_report(pacs: Orthanc) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not any(found["Modality"] == "SR" for found in pacs.objects()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no report came back within {SETTLE_SECONDS:g} s")
        time.sleep(0.25)


def _figures(archive: Archive, pacs: Orthanc, seconds: float, first: int) -> Figures:
    def count(what: sa.Select[Any]) -> int:
        with archive.index.reading() as session:
            return session.scalar(what) or 0

    return Figures(
        seconds=seconds,
        routed=sum(job["State"] == "Success" for job in pacs.jobs()),
        readings=count(sa.select(sa.func.count()).select_from(ReadingRow)),
        generations=count(sa.select(sa.func.count()).select_from(Generation)),
        results=(first, len(pacs.objects())),
        came_back=count(sa.select(sa.func.count()).select_from(Instance).where(~Instance.is_ct)),
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop_campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    given = parser.parse_args(arguments)
    program = shutil.which("Orthanc")
    if program is None:
        print("Orthanc is not installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        figures = run(program, Path(folder), given.seconds)
    print(json.dumps(dataclasses.asdict(figures), indent=2))
    return 0 if figures.is_one_reading else 1


if __name__ == "__main__":
    sys.exit(main())
