"""What a reader process does all day: look for complete studies, read them, deliver the results.

Not the process itself (`dicom_node.processes`) and not the model, which it is given.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.delivery import Courier
from dicom_node.expected_instances import Asker
from dicom_node.model_in_use import GivesReader
from dicom_node.outages import outlast
from dicom_node.workers import worker_name
from dicom_node.workflow import Workflow

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0


def read_and_deliver(
    config: Config,
    archive: Archive,
    models: GivesReader,
    stop: threading.Event,
    *,
    say_ready: Callable[[], None],
    slot: int = 0,
) -> None:
    """Read complete studies and deliver results until `stop` is set.

    Parameters
    ----------
    models: gives the model in use, loaded.
    say_ready: called once work has begun.
    slot: tells readers on one host apart.
    """
    workflow = Workflow(config, archive, models, slot)
    workflow.start()
    courier = Courier(config, archive, worker_name("reader", slot))
    threads = [_lasting(lambda: courier.run(stop), "courier", stop)]
    asker = None
    if config.completeness.ask is not None:
        asker = Asker(config, archive.index)
        threads.append(_lasting(lambda: asker.run(stop), "asking", stop))
    identity = models.current().identity
    logger.info("reader ready model=%s version=%s", identity.name, identity.version)
    if not config.destinations:
        logger.warning("no destination is configured: results stay in the archive")
    say_ready()
    workflow.watch(stop, None if asker is None else asker.answers)
    for thread in threads:
        thread.join(STOP_SECONDS)
    workflow.stop()
    logger.info("reader stopped")


def _lasting(work: Callable[[], None], what: str, stop: threading.Event) -> threading.Thread:
    """A started thread that does `work`, and again after the database was away."""
    thread = threading.Thread(target=outlast, args=(work, what, stop), name=what, daemon=True)
    thread.start()
    return thread
