"""The queue of jobs: one at a time, bounded, cancelled at any moment, results kept for a while.

Jobs are forgotten when the service ends; what they read (uploads) stays. The work itself is in
`dicom_node.service.worker`, in another process.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Literal

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.service.errors import ApiError
from dicom_node.service.models import Job
from dicom_node.service.worker import MaskTask, Report, UploadTask, worker_main

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
IDLE_SECONDS = 300.0  # after which the worker, and the memory of its model, is given back
_OVER = ("done", "failed", "cancelled")

Finish = Callable[[Report], None]


@dataclass
class _Entry:
    """A job, what is to be done, what is noted when it is done, and where its result lies."""

    job: Job
    task: UploadTask | MaskTask
    finish: Finish
    result: Path
    media_type: str
    cancel: bool = False


class Jobs:
    """Safe to share between threads. `start` before use, `close` after.

    Parameters
    ----------
    config: of the node; `ServiceSettings.queue` and `kept_results` bound what is kept.
    archive: whose ``jobs`` folder results are kept in; what an earlier service left there is removed.
    """

    def __init__(self, config: Config, archive: Archive) -> None:
        self.folder = archive.root / "jobs"
        self._uploads = archive.root / "uploads"
        self._config = config
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._process: SpawnProcess | None = None
        self._tasks: Connection | None = None
        self._idle_since = time.monotonic()

    def start(self) -> None:
        """Begin to do jobs."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for unfinished in self._uploads.glob("*.part"):  # of a reading that was cut off
            shutil.rmtree(unfinished, ignore_errors=True)
        self._thread.start()

    def close(self) -> None:
        """End at once; what is under way is lost."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._end_worker()

    def refuse_if_full(self) -> None:
        """Raise ApiError 429 where no further job can wait."""
        with self._changed:
            waiting = sum(entry.job.state == "waiting" for entry in self._entries.values())
        if waiting >= self._config.service.queue:
            raise ApiError(429, f"{waiting} jobs are waiting", "ask again when one is done")

    def submit(
        self,
        kind: Literal["upload", "mask"],
        task: UploadTask | MaskTask,
        *,
        study: str,
        result: Path,
        media_type: str,
        finish: Finish = lambda _: None,
    ) -> Job:
        """Queue a job.

        Parameters
        ----------
        study: UID of the study that it is about, or makes.
        result: the file that `result` gives when it is done.
        finish: called once it is done, before anybody is told.

        Raises
        ------
        ApiError: 429, the queue is full.
        """
        job = Job(
            id=uuid.uuid4().hex, kind=kind, state="waiting", progress=0, stage="", error=None, study=study
        )
        with self._changed:
            self.refuse_if_full()
            self._entries[job.id] = _Entry(job, task, finish, result, media_type)
            self._forget_old()
            self._changed.notify_all()
        return job

    def get(self, job_id: str) -> Job:
        """How far a job is.

        Raises
        ------
        ApiError: 404, there is none of this id, or it is long over.
        """
        with self._changed:
            return self._entry(job_id).job.model_copy()

    def cancel(self, job_id: str) -> Job:
        """End a job; one that is over stays as it is. Raises as `get`."""
        with self._changed:
            entry = self._entry(job_id)
            if entry.job.state == "waiting":
                entry.job.state, entry.job.stage = "cancelled", "cancelled"
                self._discard(entry)
            entry.cancel = entry.job.state == "running"
            self._changed.notify_all()
            if entry.cancel:
                self._changed.wait_for(lambda: entry.job.state in _OVER, timeout=5)
            return entry.job.model_copy()

    def result(self, job_id: str) -> tuple[bytes, str]:
        """The bytes that a job gave, and their media type.

        Raises
        ------
        ApiError: 404 as `get`; 409, it is not done.
        """
        with self._changed:
            entry = self._entry(job_id)
            state, error = entry.job.state, entry.job.error
        if state != "done":
            reason = f": {error}" if error else ""
            cure = "ask again in a while" if state in ("waiting", "running") else "send the job again"
            raise ApiError(409, f"the job is {state}{reason}", cure)
        try:
            return entry.result.read_bytes(), entry.media_type
        except OSError:
            raise ApiError(409, "the result of the job is no longer kept", "send the job again") from None

    def _entry(self, job_id: str) -> _Entry:
        if job_id not in self._entries:
            raise ApiError(
                404, "there is no job of this id, or its result is no longer kept", "send it again"
            )
        return self._entries[job_id]

    def _forget_old(self) -> None:
        over = [key for key, entry in self._entries.items() if entry.job.state in _OVER]
        for key in over[: max(0, len(over) - self._config.service.kept_results)]:
            self._discard(self._entries.pop(key))

    def _discard(self, entry: _Entry) -> None:
        """Remove what belongs to the job alone: a waiting upload, a mask."""
        for path in (getattr(entry.task, "source", None), getattr(entry.task, "target", None)):
            if path is not None:
                path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._next() is not None, timeout=1.0)
                entry = self._next()
                if self._stopping:
                    return
                if entry is not None:
                    entry.job.state = "running"
            if entry is not None:
                self._do(entry)
                self._idle_since = time.monotonic()
            elif time.monotonic() - self._idle_since > IDLE_SECONDS:
                self._end_worker()

    def _next(self) -> _Entry | None:
        return next((entry for entry in self._entries.values() if entry.job.state == "waiting"), None)

    def _do(self, entry: _Entry) -> None:
        started = time.perf_counter()
        tasks = self._worker()
        try:
            tasks.send(entry.task)
            report = self._follow(entry, tasks)
        except (EOFError, OSError):
            report = Report("failed", 0.0, True, "the job ended its process; the volume may be too large")
        if report is None:
            self._end_worker()
        elif report.error is None:
            try:
                entry.finish(report)
            except Exception as error:  # the index cannot be written: this job fails, the next is done
                report = Report("failed", 0.0, True, "the result could not be kept; look at the node's log")
                logger.error("job not kept error=%s", type(error).__name__)
        with self._changed:
            job = entry.job
            if report is None:
                job.state, job.stage = "cancelled", "cancelled"
            else:
                job.state = "done" if report.error is None else "failed"
                job.stage, job.error = report.stage, report.error
                job.progress = 1.0 if report.error is None else job.progress
            if job.state != "done":
                self._discard(entry)
            self._changed.notify_all()
        logger.info(
            "job over kind=%s state=%s seconds=%.1f at=%s",
            job.kind,
            job.state,
            time.perf_counter() - started,
            report.log if report is not None else None,
        )

    def _follow(self, entry: _Entry, tasks: Connection) -> Report | None:
        """The worker's last word on a job; None if it was cancelled meanwhile."""
        while True:
            while tasks.poll(POLL_SECONDS):
                report: Report = tasks.recv()
                if report.done:
                    return report
                with self._changed:
                    entry.job.stage, entry.job.progress = report.stage, report.progress
            with self._changed:
                if entry.cancel or self._stopping:
                    return None

    def _worker(self) -> Connection:
        """The connection to a worker that lives; a new one is started where there is none."""
        if self._tasks is None or self._process is None or not self._process.is_alive():
            self._end_worker()
            context = multiprocessing.get_context("spawn")
            self._tasks, theirs = context.Pipe()
            self._process = context.Process(
                target=worker_main, args=(self._config, theirs), name="sightline worker", daemon=True
            )
            self._process.start()
            theirs.close()
        return self._tasks

    def _end_worker(self) -> None:
        if self._tasks is not None:
            self._tasks.close()
        if self._process is not None:
            self._process.kill()  # it may be deep in the model, and leaves nothing half done
            self._process.join()
        self._tasks = self._process = None
