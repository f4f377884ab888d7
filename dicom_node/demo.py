"""`sightline demo`: the whole way of a study, on one machine, with a patient that never was.

A phantom study goes from a small PACS over the network to a real node, whose results come
back over the network and are compared with what was planted. Nothing here is a shortcut: the
node is the one of `sightline serve`, in its own processes. Not a benchmark: one study says
little about the model.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from dicom_node.completeness import UNREAD
from dicom_node.config import load_config
from dicom_node.demo_node import NodeProcess, write_config
from dicom_node.demo_pacs import DemoError, Pacs
from dicom_node.demo_pictures import write_pictures
from dicom_node.demo_truth import FindingResult, PlantedResult, Scene, compare, load_scene
from dicom_node.errors import SightlineError
from dicom_node.index import Delivery, Generation, Index, ReadingRow
from dicom_node.series import Progress

RESULT_TIMEOUT = 900.0  # seconds; a CPU with two cores needs well below 120
PHANTOM_TIMEOUT = 600.0
# Planted in the demo: two lesions that the node draws, and one that it only reports; in the
# phase in which liver metastases are looked for.
PHANTOM = (
    "--lesion=liver_tumour:32mm",
    "--lesion=liver_tumour:18mm",
    "--lesion=renal_cyst:25mm",
    "--phase=portal venous",
)
_WAIT = "wait for results"


@dataclass(frozen=True)
class Answer:
    """One text query and how far its answer lies from the middle of the nearest planted lesion that the text
    names (None if nothing was planted)."""

    text: str
    organ: str
    score: float
    position_lps_mm: tuple[float, float, float]
    distance_mm: float | None
    slice_distance_mm: float | None


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo saw.

    Attributes
    ----------
    folder: where everything lies.
    title: of the series that was sent.
    objects: one line per object that came back.
    planted: each planted lesion with what was found of it.
    findings: each abnormality that the node searched for, with the truth.
    false_lesions: number of found lesions that touch nothing planted.
    answer: to the text query.
    seconds: duration of each stage, in order.
    peak_rss_bytes: largest memory of the reader process.
    device: what the reader ran on.
    pictures: the PNGs.
    problems: what should not be; empty if the demo succeeded.
    """

    folder: Path
    title: str
    objects: tuple[str, ...]
    planted: tuple[PlantedResult, ...]
    findings: tuple[FindingResult, ...]
    false_lesions: int
    answer: Answer
    seconds: dict[str, float]
    peak_rss_bytes: int
    device: str
    pictures: tuple[Path, ...]
    problems: tuple[str, ...]


def run_demo(
    out: Path | None,
    *,
    seed: int,
    checkpoint: Path | None = None,
    device: str | None = None,
    phantom: Sequence[str] = PHANTOM,
    progress: Progress,
) -> DemoOutcome:
    """Run the demo; see the module.

    Parameters
    ----------
    out: new or empty folder that keeps everything; a new temporary one if None.
    seed: of the phantom.
    checkpoint, device: of the node; None as in its configuration.
    phantom: further arguments of ``python -m training.phantoms study``.
    progress: called with a stage and the fraction done.

    Raises
    ------
    DemoError: a part did not start, or nothing came back in time; the message says which and
        where its log lies.
    SightlineError: `out` is not empty.
    """
    folder = _folder(out)
    clock = _Clock()
    progress("phantom", 0.0)
    _make_phantom(folder / "phantom", seed, phantom)
    progress("phantom", 1.0)
    clock.lap("make phantom")
    with Pacs(folder / "pacs") as pacs:
        config_file = write_config(folder, pacs.port, checkpoint, device)
        config = load_config(config_file)
        with NodeProcess(config_file, folder / "node.log") as node:
            progress("start node", 0.0)
            node.wait_ready()
            progress("start node", 1.0)
            clock.lap("start node")
            files = sorted((folder / "phantom" / "dicom").iterdir())
            pacs.send(files, config.port, config.ae_title, progress=progress)
            clock.lap("send study")
            index = Index(config.database_url)
            generation = _wait(pacs, node, index, progress)
            clock.lap(_WAIT)
    back = pacs.last_received_at - generation.complete_at
    with index.reading() as session:
        row = session.get_one(ReadingRow, generation.reading_key)
    index.close()
    progress("compare", 0.0)
    scene = load_scene(folder / "phantom", pacs.received(), config.archive / "results" / row.key)
    comparison = compare(scene)
    answer = _ask(scene, config.checkpoint, config.device)
    pictures = write_pictures(scene, comparison.planted, folder)
    progress("compare", 1.0)
    clock.lap("compare")
    return DemoOutcome(
        folder=folder,
        title=scene.title,
        objects=scene.objects,
        planted=comparison.planted,
        findings=comparison.findings,
        false_lesions=comparison.false_lesions,
        answer=answer,
        seconds=_stages(clock.seconds, row.seconds, back),
        peak_rss_bytes=row.peak_rss_bytes,
        device=row.device,
        pictures=tuple(pictures),
        problems=scene.problems,
    )


class _Clock:
    """Seconds from lap to lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def _stages(laps: dict[str, float], reader: dict[str, float], back: float) -> dict[str, float]:
    """All stages in the order in which they ran, the reader's within the wait for results."""
    stages: dict[str, float] = {}
    for name, seconds in laps.items():
        stages[name] = seconds
        if name == _WAIT:
            stages |= {f"  reader: {stage}": value for stage, value in reader.items()}
            stages["  study complete -> stored back"] = back
    return stages


def _folder(out: Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="sightline-demo-"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SightlineError(f"{out}: is not an empty folder; name a new one for the demo")
    out.mkdir(parents=True, exist_ok=True)
    return out.resolve()


def _make_phantom(folder: Path, seed: int, arguments: Sequence[str]) -> None:
    """The phantom comes from `training`, which this package never imports: its command is run."""
    command = [sys.executable, "-m", "training.phantoms", "study", "--seed", str(seed), "--out", str(folder)]
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=PHANTOM_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"the phantom was not made within {PHANTOM_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise DemoError(f"the phantom could not be made (seed {seed}): {''.join(last)}")


def _wait(pacs: Pacs, node: NodeProcess, index: Index, progress: Progress) -> Generation:
    """Wait until the report is back in the PACS; it is the last object that the node sends.

    Raises
    ------
    DemoError: the node refused or failed, died, or took too long.
    """
    started = time.monotonic()
    while True:
        with index.reading() as session:
            generation = session.scalars(sa.select(Generation).order_by(Generation.id.desc())).first()
            deliveries = session.scalars(sa.select(Delivery.state)).all()
        waited = time.monotonic() - started
        if generation is not None and generation.state in UNREAD:
            raise DemoError(f"the node did not read the study: {generation.reason}{node.log_tail()}")
        if "dead" in deliveries:
            raise DemoError(f"the node gave up sending a result{node.log_tail()}")
        all_sent = bool(deliveries) and set(deliveries) == {"delivered"}
        if generation is not None and generation.state == "read" and all_sent and pacs.has_report():
            progress(_WAIT, 1.0)
            return generation
        if not node.is_running():
            raise DemoError(f"the node ended before results came back{node.log_tail()}")
        if waited > RESULT_TIMEOUT:
            state = "never became complete" if generation is None else f"is {generation.state}"
            raise DemoError(f"no report came back in {waited:.0f} s; the study {state}{node.log_tail()}")
        progress(_WAIT, 0.0)
        time.sleep(0.1)


def _ask(scene: Scene, checkpoint: Path | None, device: str | None) -> Answer:
    """Ask the archived encoding, as `sightline query` does, for the kind of the largest planted lesion."""
    from core_model.abnormality import abnormality  # noqa: PLC0415  torch is slow to import
    from core_model.encoding_file import load_encoding  # noqa: PLC0415
    from core_model.reader import Reader  # noqa: PLC0415

    target = scene.largest()
    text = abnormality(target.abnormality).present[0] if target else "a lesion in the liver"
    found = Reader.load(checkpoint, device).localize(load_encoding(scene.encoding_file), text)
    distance = slice_distance = None
    # The text names a kind of lesion, not one of them: whichever is nearest is meant.
    meant = scene.nearest(target.abnormality, found.position_lps_mm) if target else None
    if meant is not None and meant.centroid_lps_mm is not None:
        distance = math.dist(found.position_lps_mm, meant.centroid_lps_mm)
        slice_distance = abs(found.position_lps_mm[2] - meant.centroid_lps_mm[2])
    return Answer(text, found.organ, found.score, found.position_lps_mm, distance, slice_distance)
