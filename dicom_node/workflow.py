"""The durable path of a study: found complete, queued, read, published, whatever dies in between.

The only module that knows DBOS, which keeps each step's outcome in its own database: a step
that ended is never repeated, one that was cut off is. What the steps do is in
`dicom_node.readings`; step inputs and outputs are ids and numbers, kept as JSON (DBOS would
pickle by default). One reading at a time per process: a model fills its device.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowSerializationFormat

from dicom_node import readings
from dicom_node.archive import Archive, tag
from dicom_node.completeness import complete_studies
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import Generation
from dicom_node.words import in_words

logger = logging.getLogger(__name__)

QUEUE = "reading"
# Explicit, because DBOS derives it from the source code and would then strand queued work at
# every upgrade. Raise it only when the steps below change in number or order.
WORKFLOW_VERSION = "1"
# A study that kills its process this often is given up, so that it cannot block the queue.
MAXIMUM_RECOVERIES = 2
POLL_SECONDS = 0.25
RECONCILE_SECONDS = 10.0
_GIVEN_UP = ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class Workflow:
    """Watches for complete studies and has them read. One per process (DBOS is a singleton).

    Parameters
    ----------
    config: of the node.
    archive: what was received.
    reader: `core_model.reader.Reader`, loaded.
    executor_id: names this worker among those that share the database; stable across restarts,
        because only its namesake resumes what it leaves behind.
    """

    def __init__(
        self, config: Config, archive: Archive, reader: readings.CanRead, executor_id: str = "reader-0"
    ) -> None:
        self._config = config
        self._archive = archive
        self._reader = reader
        self._executor_id = executor_id
        self._one_at_a_time = threading.Lock()

    def start(self) -> None:
        """Open DBOS's database, resume what was cut off, and queue what was chosen but not queued."""
        DBOS(config=self._dbos_config())
        dbos_logger = logging.getLogger("dbos")
        dbos_logger.handlers.clear()  # its lines go where ours go
        dbos_logger.propagate = True
        self._run = self._register()
        DBOS.launch()
        DBOS.register_queue(
            QUEUE, worker_concurrency=1, polling_interval_sec=POLL_SECONDS, on_conflict="always_update"
        )
        self.reconcile()

    def stop(self) -> None:
        """Close DBOS without waiting: a reading under way is repeated at the next start."""
        DBOS.destroy(destroy_registry=True)

    def watch(self, stop: threading.Event) -> None:
        """Look for complete studies until `stop` is set."""
        reconciled = time.monotonic()
        while not stop.wait(POLL_SECONDS):
            complete_studies(self._archive.index, self._config)
            for generation in self._unfinished("complete"):  # those, and what a person had tried again
                self._choose(generation)
            if time.monotonic() - reconciled > RECONCILE_SECONDS:
                self.reconcile()
                reconciled = time.monotonic()

    def reconcile(self) -> None:
        """Bring the index and the queue together again after a crash between the two.

        A generation still ``complete`` is chosen again; one ``queued`` in the index but unknown
        to DBOS is queued; one that DBOS gave up is recorded as failed.
        """
        for generation in self._unfinished("complete", "queued"):
            if generation.state == "complete":
                self._choose(generation)
                continue
            status = DBOS.get_workflow_status(_workflow_id(generation))
            if status is None:
                self._enqueue(generation)
            elif status.status in _GIVEN_UP:
                reason = f"the reader died {MAXIMUM_RECOVERIES + 1} times on this study"
                logger.error("reading given up generation_id=%d error=%s", generation.id, reason)
                readings.fail(self._archive, generation.id, reason)

    def _unfinished(self, *states: str) -> Sequence[Generation]:
        with self._archive.index.reading() as session:
            return session.scalars(
                sa.select(Generation).where(Generation.state.in_(states)).order_by(Generation.id)
            ).all()

    def _choose(self, generation: Generation) -> None:
        """Choose the series of a generation, and queue it if there is something new to read."""
        logger.info(
            "study complete study=%s generation=%d",
            tag(generation.study_instance_uid),
            generation.number,
        )
        try:
            chosen = readings.select(self._archive, self._config, self._reader.identity, generation)
        except (SightlineError, ValueError, OSError) as error:
            logger.error("no series chosen generation_id=%d error=%s", generation.id, in_words(error))
            readings.fail(self._archive, generation.id, f"no series could be chosen: {error}")
            return
        if chosen.state == "queued":
            self._enqueue(chosen)
        else:
            logger.info(
                "study not read study=%s generation=%d state=%s",
                tag(chosen.study_instance_uid),
                chosen.number,
                chosen.state,
            )

    def _enqueue(self, generation: Generation) -> None:
        """Queue a reading. Its id makes a second call for the same generation do nothing."""
        with SetWorkflowID(_workflow_id(generation)):
            DBOS.enqueue_workflow(QUEUE, self._run, generation.id)

    def _register(self) -> Any:
        """The steps as DBOS knows them, bound to this worker's archive and reader."""
        archive, config = self._archive, self._config

        @DBOS.step(name="read", retries_allowed=True, max_attempts=2, should_retry=_may_pass)
        def read(generation_id: int) -> dict[str, Any]:
            with self._one_at_a_time:
                return asdict(readings.read(archive, config, self._reader, generation_id))

        @DBOS.step(name="publish")
        def publish(generation_id: int, finished: dict[str, Any]) -> None:
            readings.publish(archive, config, generation_id, readings.Finished(**finished))

        @DBOS.step(name="fail")
        def fail(generation_id: int, reason: str) -> None:
            readings.fail(archive, generation_id, reason)

        @DBOS.workflow(
            name="read_study",
            max_recovery_attempts=MAXIMUM_RECOVERIES,
            serialization_type=WorkflowSerializationFormat.PORTABLE,
        )
        def read_study(generation_id: int) -> None:
            try:
                finished = read(generation_id)
            except Exception as error:  # whatever one study does to the model, the next is read
                logger.error("reading failed generation_id=%d error=%s", generation_id, in_words(error))
                fail(generation_id, f"{type(error).__name__}: {error}")
                return
            publish(generation_id, finished)

        return read_study

    def _dbos_config(self) -> DBOSConfig:
        return DBOSConfig(
            name="sightline",
            system_database_url=f"sqlite:///{self._archive.root / 'workflow.sqlite'}",
            application_version=WORKFLOW_VERSION,
            executor_id=self._executor_id,
            log_level="WARNING",
        )


def _workflow_id(generation: Generation) -> str:
    """From the idempotency key; with the generation, so that a failed reading can be tried anew."""
    return f"read-{generation.reading_key}-{generation.id}"


def _may_pass(error: BaseException) -> bool:
    """A defect of the input stays; anything else (memory, device) may be gone the next time."""
    return not isinstance(error, (SightlineError, ValueError))
