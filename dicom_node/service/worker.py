"""The process that does jobs: reads uploaded volumes and draws what texts describe.

A process of its own, so that a reading never holds up answers, a cancelled one ends at once,
and one that runs out of memory takes nothing else with it. It has a `Reader` of its own, loaded at the
first job, and anew after another one was promoted. It writes files and never the index: that is
`dicom_node.service.jobs`'s.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from core_model.memory import give_back_memory, keep_memory
from core_model.reader import Reader
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.model_in_use import load_model
from dicom_node.organ_drawing import organ_segmenter
from dicom_node.series import CandidateSeries, classify_series
from dicom_node.series_frames import read_references
from dicom_node.series_pixels import load_series
from dicom_node.series_settings import WAS_READ
from dicom_node.service.nrrd_files import NrrdError
from dicom_node.service.segments import MASK_COLOUR, Segment, segments_nrrd
from dicom_node.service.uploads import CT, load_ct, on_file_grid, read_upload
from dicom_node.words import in_words

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class UploadTask:
    """Read the volume in `source` with the model of digest `model` and keep the reading in `folder`."""

    source: Path
    folder: Path
    series_instance_uid: str | None
    model: str


@dataclass(frozen=True)
class MaskTask:
    """Draw `text` in a study and write ``.seg.nrrd`` to `target`.

    Attributes
    ----------
    slices: as `dicom_node.service.catalogue.Held.slices`; empty for an upload.
    files: where the file of each SOP Instance UID lies.
    folder: of the upload.
    model: digest of the model that draws.
    """

    text: str
    target: Path
    slices: tuple[str, ...]
    files: dict[str, Path]
    folder: Path
    model: str


@dataclass(frozen=True)
class Report:
    """What the worker says of the job that it does.

    Attributes
    ----------
    stage, progress: how far it is.
    done: whether this is the last word.
    error: one sentence for whoever asked; None while all is well.
    log: where a defect lies, for the log.
    images: slices of an upload that was read.
    """

    stage: str
    progress: float
    done: bool = False
    error: str | None = None
    log: str | None = None
    images: int = 0


def worker_main(config: Config, tasks: Connection) -> None:
    """Target of the process: take a task, report, take the next, until the other end is closed."""
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends this process itself
    warnings.simplefilter("ignore")  # pydicom's and highdicom's quote names and other values of data sets
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    reader: Reader | None = None
    while True:
        try:
            task = tasks.recv()
        except (EOFError, OSError):
            return

        def progress(stage: str, share: float) -> None:
            tasks.send(Report(stage, round(min(max(share, 0.0), 1.0), 3)))

        try:
            if reader is None or reader.identity.digest != task.model:
                progress("load model", 0.0)
                reader = load_model(config, task.model, config.device, organ_segmenter(config))
            tasks.send(do(task, reader, progress))
        except (BrokenPipeError, ConnectionError):
            return
        except Exception as error:  # whatever a volume does to the model, the next job is done
            tasks.send(Report("failed", 0.0, True, sentence(error), in_words(error)))
        give_back_memory()


def do(task: UploadTask | MaskTask, reader: Reader, progress: Progress) -> Report:
    """Do one task; the report of its end."""
    if isinstance(task, UploadTask):
        images = read_upload(reader, task.source, task.folder, task.series_instance_uid, progress)
        return Report("done", 1.0, True, images=images)
    _draw(task, reader, progress)
    return Report("done", 1.0, True)


def sentence(error: Exception) -> str:
    """What went wrong, for whoever asked; never what a library says of values."""
    if isinstance(error, NrrdError):
        return f"{error.message}; {error.cure}"
    if isinstance(error, SightlineError):
        return error.message.splitlines()[0]
    if isinstance(error, ValueError) and str(error).startswith(("volume ", "text ")):  # the reader's own
        return str(error).splitlines()[0]
    if isinstance(error, MemoryError):
        return "the volume is too large for this machine's memory; crop or resample it"
    return f"the job failed ({type(error).__name__}); the log of the node says where"


def _draw(task: MaskTask, reader: Reader, progress: Progress) -> None:
    progress("load", 0.0)
    if task.slices:
        series = classify_series(read_references(task.slices, task.files.__getitem__), WAS_READ)
        if not isinstance(series, CandidateSeries):
            raise SightlineError(f"the series can no longer be read: {series.reason}; send it again")
        volume, grid = load_series(series).volume, None
    else:
        volume, grid = load_ct(task.folder / CT)
    mask = reader.segment(
        volume, task.text, progress=lambda stage, share: progress(stage, 0.05 + 0.85 * share)
    )
    progress("write", 0.95)
    name = "".join(c for c in task.text if c.isprintable())[:64].strip() or "mask"
    segment = Segment("mask", name, 1, MASK_COLOUR)
    content = segments_nrrd(mask if grid is None else on_file_grid(mask, grid), [segment])
    part = task.target.with_suffix(".part")
    part.write_bytes(content)
    part.rename(task.target)


def _end_with(sentinel: int) -> None:
    """End this process at once when the one behind `sentinel` is gone."""
    wait([sentinel])
    os._exit(0)
