"""Waiting for a job of the server without waiting: it is asked every half second how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from SightlineLib import failures
from SightlineLib.client import Call, Client

INTERVAL_MS = 500
# A lost answer says nothing of the job; so many in a row say that the server is gone.
LOST_ANSWERS = 3


class JobWatch:
    """Follows one job until it is done, fails or is cancelled.

    `onDone` gets the last JOB, `onFailed` a `Failure`, `onProgress` the part 0..1 and the stage.
    """

    def __init__(
        self,
        client: Client,
        job: dict[str, Any],
        onDone: Callable,
        onFailed: Callable,
        onProgress: Callable,
    ) -> None:
        self._client = client
        self._identifier = str(job["id"])
        self._onDone = onDone
        self._onFailed = onFailed
        self._onProgress = onProgress
        self._call: Call | None = None
        self._lost = 0
        self._over = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._ask)
        self._look(job)

    def cancel(self) -> None:
        """Stop watching and tell the server that nobody waits any more."""
        if self._over:
            return
        self._end()
        self._client.cancelJob(self._identifier)

    def _end(self) -> None:
        self._over = True
        self._timer.stop()
        if self._call is not None:
            self._call.cancel()

    def _ask(self) -> None:
        self._call = self._client.job(self._identifier, self._look, self._lose)

    def _look(self, job: dict[str, Any]) -> None:
        self._lost = 0
        state = job.get("state")
        if state in ("waiting", "running"):
            self._onProgress(float(job.get("progress", 0.0)), str(job.get("stage", "")))
            self._timer.start()
            return
        self._end()
        if state == "done":
            self._onDone(job)
        else:
            self._onFailed(failures.job(job.get("error")))

    def _lose(self, failure: failures.Failure) -> None:
        self._lost += 1
        if failure.kind in ("down", "timeout", "interrupted") and self._lost < LOST_ANSWERS:
            self._timer.start()
            return
        self._end()
        self._onFailed(failure)
