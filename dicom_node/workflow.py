"""The durable path of a study: found complete, queued, read, published, whatever dies in between.

The only module that knows DBOS, which keeps each step's outcome in its own database: a step
that ended is never repeated, one that was cut off is. What the steps do is in
`dicom_node.readings`; step inputs and outputs are ids and numbers, kept as JSON (DBOS would
pickle by default). One reading at a time per process: a model fills its device. Several
processes, on one host or many, share the queue; what a dead one had begun goes to the others.
A model that is promoted is taken up between two studies; what was chosen for the one before and is not read
yet is chosen again, so that key, UIDs and reader of a reading always belong together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowSerializationFormat

from core_model.memory import give_back_memory
from dicom_node import readings
from dicom_node.archive import Archive, tag
from dicom_node.completeness import Expected, complete_studies, open_again
from dicom_node.completeness_settings import SET_ASIDE
from dicom_node.config import Config
from dicom_node.errors import SightlineError
from dicom_node.index import Generation
from dicom_node.model_in_use import GivesReader
from dicom_node.outages import is_outage, outlast
from dicom_node.words import in_words
from dicom_node.workers import Heartbeat, worker_name

logger = logging.getLogger(__name__)

QUEUE = "reading"
# Explicit, because DBOS derives it from the source code and would then strand queued work at
# every upgrade. Raise it only when the steps below change in number or order.
WORKFLOW_VERSION = "1"
# A study that ends its process so often is set aside, so that it cannot block the queue.
TRIES = 3
POLL_SECONDS = 0.25
RECONCILE_SECONDS = 10.0
OUTAGE_SECONDS = 1.0  # pause between two looks while the database is away
_TOO_MANY_TRIES = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
_BROKEN_OFF = ("ERROR", "CANCELLED")
NOT_READ = "not_read"  # instead of what `read` gives: the key that was chosen for another model


class Workflow:
    """Watches for complete studies and has them read. One per process (DBOS is a singleton).

    Parameters
    ----------
    config: of the node.
    archive: what was received.
    models: gives the model in use, loaded; asked before each study and between studies.
    slot: tells readers on one host apart; together with the host it names this worker.
    """

    def __init__(self, config: Config, archive: Archive, models: GivesReader, slot: int = 0) -> None:
        self._config = config
        self._archive = archive
        self._models = models
        self._heartbeat = Heartbeat(archive.index, worker_name("reader", slot), config.heartbeat_seconds)
        self._one_at_a_time = threading.Lock()
        self._running: set[int] = set()  # generations whose workflow runs in this process
        self._idle_with_work = False

    def start(self) -> None:
        """Open DBOS's database, resume what was cut off, and queue what was chosen but not queued."""
        self._heartbeat.start()
        readings.remove_unfinished(self._archive)
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
        """Close DBOS without waiting: a reading under way is repeated, here or by another worker."""
        DBOS.destroy(destroy_registry=True)
        try:
            self._heartbeat.stop()
        except sa.exc.SQLAlchemyError as error:  # then the others find out by themselves
            logger.warning("end not noted error=%s", in_words(error))

    def watch(
        self, stop: threading.Event, expected: Callable[[], Mapping[str, Expected]] | None = None
    ) -> None:
        """Look for complete studies until `stop` is set.

        Parameters
        ----------
        expected: gives what the PACS said of the studies that wait, see `complete_studies`.
        """
        beating = threading.Thread(target=self._heartbeat.run, args=(stop,), name="heartbeat", daemon=True)
        beating.start()
        reconciled = time.monotonic()
        while not stop.wait(POLL_SECONDS):
            try:
                self._take_up()
                complete_studies(
                    self._archive.index, self._config, expected=None if expected is None else expected()
                )
                for generation in self._unfinished():  # those, and what a person had tried again
                    if generation.state == "complete":
                        self._choose(generation)
                if time.monotonic() - reconciled > RECONCILE_SECONDS:
                    self.reconcile()
                    reconciled = time.monotonic()
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning("waiting for database or disk error=%s", in_words(error))
                stop.wait(OUTAGE_SECONDS)

    def _take_up(self) -> None:
        """Load what was promoted, unless a study is being read: then it is done before the next one."""
        if self._one_at_a_time.acquire(blocking=False):
            try:
                self._models.current()
            finally:
                self._one_at_a_time.release()

    def reconcile(self) -> None:
        """Bring index, queue and workers together again after a crash of any of them.

        A generation still ``complete`` is chosen again; one ``queued`` in the index but unknown
        to DBOS is queued; one whose workflow could not be kept up is tried anew; one that ended
        its process too often is set aside; and what dead workers had begun is queued again.
        """
        self._take_over()
        for generation in self._unfinished():
            if generation.state == "complete":
                self._choose(generation)
                continue
            status = DBOS.get_workflow_status(_workflow_id(generation))
            if status is None:
                self._enqueue(generation)
            elif status.status == _TOO_MANY_TRIES:
                reason = f"{TRIES} times a reader ended while it read this study"
                readings.give_up(self._archive, generation.id, SET_ASIDE, reason)
            elif status.status in _BROKEN_OFF:
                reason = "the queue's database failed; tried anew as the next generation"
                readings.give_up(self._archive, generation.id, "failed", reason)
                open_again(self._archive.index, generation.study_instance_uid)

    def _take_over(self) -> None:
        """Queue again what dead workers had begun.

        Also what this worker began and runs no more: DBOS loses it where its database was away
        just then, and would resume it only at the next start.
        """
        begun = {
            str(status.executor_id)
            for status in DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        }
        taken = self._heartbeat.dead(begun)
        own = self._heartbeat.name in begun and not self._running
        if own and self._idle_with_work:  # twice in a row: a workflow may be about to start
            taken.append(self._heartbeat.name)
        self._idle_with_work = own
        if taken:
            # Private in DBOS 3.4, which is why the version is pinned; its public way is a paid service.
            DBOS._recover_pending_workflows(taken)
            logger.warning("work of dead workers queued again workers=%s", ",".join(taken))

    def _unfinished(self) -> list[Generation]:
        """Generations that are not at an end, only the earliest of each study.

        The next state of a study waits for the one before, so that its report can name that one's.
        """
        with self._archive.index.reading() as session:
            rows = session.scalars(
                sa.select(Generation)
                .where(Generation.state.in_(("complete", "queued")))
                .order_by(Generation.id)
            ).all()
        earliest: dict[str, Generation] = {}
        for row in rows:
            earliest.setdefault(row.study_instance_uid, row)
        return list(earliest.values())

    def _choose(self, generation: Generation) -> None:
        """Choose the series of a generation, and queue it if there is something new to read."""
        logger.info(
            "study complete study=%s generation=%d",
            tag(generation.study_instance_uid),
            generation.number,
        )
        try:
            model = self._models.current()
            chosen = readings.select(
                self._archive, self._config, model.identity, generation, organs_by=model.organ_drawing
            )
        except (SightlineError, ValueError, OSError) as error:
            if is_outage(error):
                raise
            logger.error("no series chosen generation_id=%d error=%s", generation.id, in_words(error))
            readings.give_up(self._archive, generation.id, "failed", f"no series could be chosen: {error}")
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
                reader = self._models.current()
                try:
                    finished = outlast(
                        lambda: readings.read(archive, config, reader, generation_id), "reading"
                    )
                except readings.ChosenForAnotherModelError as error:
                    return {NOT_READ: error.key}
                finally:
                    give_back_memory()
            return asdict(finished)

        @DBOS.step(name="publish")
        def publish(generation_id: int, finished: dict[str, Any]) -> None:
            done = readings.Finished(**finished)
            outlast(lambda: readings.publish(archive, config, generation_id, done), "publishing")

        @DBOS.step(name="choose again")
        def choose_again(generation_id: int, key: str) -> None:
            outlast(lambda: readings.choose_again(archive, generation_id, key), "choosing again")

        @DBOS.step(name="fail")
        def fail(generation_id: int, reason: str) -> None:
            outlast(lambda: readings.give_up(archive, generation_id, "failed", reason), "giving up")

        @DBOS.workflow(
            name="read_study",
            max_recovery_attempts=TRIES - 1,
            serialization_type=WorkflowSerializationFormat.PORTABLE,
        )
        def read_study(generation_id: int) -> None:
            self._running.add(generation_id)
            try:
                finished = read(generation_id)
                if NOT_READ in finished:
                    logger.info("chosen again for another model generation_id=%d", generation_id)
                    choose_again(generation_id, finished[NOT_READ])
                else:
                    publish(generation_id, finished)
            except Exception as error:  # whatever one study does to the model, the next is read
                if is_outage(error):  # DBOS could not keep a step's outcome: no fault of the study
                    raise
                logger.error("reading failed generation_id=%d error=%s", generation_id, in_words(error))
                fail(generation_id, f"{type(error).__name__}: {error}")
            finally:
                self._running.discard(generation_id)

        return read_study

    def _dbos_config(self) -> DBOSConfig:
        return DBOSConfig(
            name="sightline",
            system_database_url=self._config.database
            or f"sqlite:///{self._archive.root / 'workflow.sqlite'}",
            application_version=WORKFLOW_VERSION,
            executor_id=self._heartbeat.name,
            log_level="WARNING",
        )


def _workflow_id(generation: Generation) -> str:
    """From the idempotency key; with the generation, so that a failed reading can be tried anew.

    And with how often it was chosen again, so that a model that is promoted, left and gone back to does not
    meet the workflow that was ended for the sake of another.
    """
    again = f"-{generation.choices}" if generation.choices else ""
    return f"read-{generation.reading_key}-{generation.id}{again}"


def _may_pass(error: BaseException) -> bool:
    """A defect of the input stays; anything else (memory, device) may be gone the next time."""
    return not isinstance(error, (SightlineError, ValueError))
