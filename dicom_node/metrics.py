"""Prometheus metrics, computed from the index whenever they are asked for.

So they survive restarts, are the same whichever of several hosts is asked, and cost nothing
between two scrapes; only counts per peer are gathered elsewhere (`dicom_node.traffic`). No label holds
a received value: peers have the names that the configuration gives them. Not the serving
(`dicom_node.monitor`).
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np
import sqlalchemy as sa
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

import dicom_node
from dicom_node import traffic
from dicom_node.archive import Archive
from dicom_node.config import Config
from dicom_node.heartbeat import ProcessRow, alive
from dicom_node.index import REPORT_RANK, Delivery, Generation, ReadingRow, Result, Study
from dicom_node.removed import RemovedInstance, RemovedReading
from dicom_node.traffic import TrafficRow

logger = logging.getLogger(__name__)

# Seconds; from a reading on a GPU to a destination that was down for days.
BUCKETS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0, 86400.0, 604800.0)
HISTOGRAM_SECONDS = 60.0  # a histogram is at most so old
# What is counted -> name, help, and what its detail is called.
_TRAFFIC: dict[str, tuple[str, str, str | None]] = {
    traffic.ASSOCIATIONS: ("sightline_associations", "Associations accepted", None),
    traffic.ASSOCIATIONS_REFUSED: ("sightline_associations_refused", "Associations refused", "reason"),
    traffic.INSTANCES: ("sightline_instances", "Instances stored", None),
    traffic.DUPLICATES: ("sightline_duplicates", "Instances received that were here already", None),
    traffic.BYTES: ("sightline_received_bytes", "Bytes of the instances acknowledged", None),
    traffic.REFUSALS: ("sightline_refusals", "Instances refused, by C-STORE status", "status"),
}


class NodeCollector(Collector):
    """All metrics of a node, for a `prometheus_client.CollectorRegistry`.

    Parameters
    ----------
    config, archive: of the node.
    """

    def __init__(self, config: Config, archive: Archive) -> None:
        self._config = config
        self._archive = archive
        self._histograms: tuple[Metric, ...] = ()
        self._computed_at = -math.inf
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; where the index cannot be read, those that need none."""
        yield InfoMetricFamily("sightline", "The program", value={"version": dicom_node.__version__})
        yield from self._disk()
        try:
            with self._archive.index.reading() as session:
                families = [*_from_index(session, time.time()), *self._slow(session)]
        except sa.exc.SQLAlchemyError as error:
            logger.error("metrics without the index error=%s", type(error).__name__)
            families = []
        up = float(bool(families))
        yield GaugeMetricFamily("sightline_index_up", "Whether the index can be read", value=up)
        yield from families

    def _slow(self, session: Session) -> tuple[Metric, ...]:
        """The histograms, which ask for every study there ever was, and so not at every scrape."""
        with self._lock:
            if time.monotonic() - self._computed_at >= HISTOGRAM_SECONDS:
                self._histograms = tuple(_histograms(session))
                self._computed_at = time.monotonic()
            return self._histograms

    def _disk(self) -> Iterator[Metric]:
        try:
            usage = shutil.disk_usage(self._archive.root)
        except OSError as error:
            logger.error("metrics without the disk error=%s", error.strerror)
            return
        for name, text, value in (
            ("sightline_disk_free_bytes", "Free space on the archive's disk", usage.free),
            ("sightline_disk_total_bytes", "Size of the archive's disk", usage.total),
            ("sightline_disk_reserve_bytes", "reserve_gib", self._config.reserve_gib * 2**30),
        ):
            yield GaugeMetricFamily(name, text, value=value)


def _from_index(session: Session, now: float) -> Iterator[Metric]:
    yield from _traffic(session)
    yield from _queues(session, now)
    yield from _states(session)
    yield from _removed(session)
    yield from _processes(session, now)


def _traffic(session: Session) -> Iterator[Metric]:
    rows = session.scalars(sa.select(TrafficRow)).all()
    for what, (name, text, detail) in _TRAFFIC.items():
        family = CounterMetricFamily(name, text, labels=["ae_title", *([detail] if detail else [])])
        for row in rows:
            if row.what == what:
                family.add_metric([row.ae_title, *([row.detail] if detail else [])], row.count)
        yield family


def _queues(session: Session, now: float) -> Iterator[Metric]:
    """How much waits for what, and how long the oldest has waited."""
    waits: dict[str, sa.Executable] = {
        "receiving": sa.select(sa.func.count(), sa.func.min(Study.last_ct_at)).where(Study.waiting),
        "choosing": _generations("complete"),
        "reading": _generations("queued"),
        "delivery": sa.select(sa.func.count(), sa.func.min(Delivery.created_at)).where(
            Delivery.state == "pending"
        ),
    }
    depth = GaugeMetricFamily("sightline_queue_depth", "Studies, or results, that wait", labels=["queue"])
    oldest = GaugeMetricFamily(
        "sightline_oldest_job_age_seconds", "How long the oldest of them has waited", labels=["queue"]
    )
    for queue, query in waits.items():
        count, since = session.execute(query).one()
        depth.add_metric([queue], count)
        oldest.add_metric([queue], 0.0 if since is None else max(0.0, now - since))
    yield depth
    yield oldest


def _generations(state: str) -> sa.Executable:
    return sa.select(sa.func.count(), sa.func.min(Generation.complete_at)).where(Generation.state == state)


def _states(session: Session) -> Iterator[Metric]:
    states = GaugeMetricFamily("sightline_generations", "Complete states of studies", labels=["state"])
    for state, count in session.execute(
        sa.select(Generation.state, sa.func.count()).group_by(Generation.state)
    ):
        states.add_metric([state], count)
    yield states
    deliveries = GaugeMetricFamily(
        "sightline_deliveries", "Results for each destination", labels=["destination", "state"]
    )
    for destination, state, count in session.execute(
        sa.select(Delivery.destination, Delivery.state, sa.func.count()).group_by(
            Delivery.destination, Delivery.state
        )
    ):
        deliveries.add_metric([destination, state], count)
    yield deliveries


def _histograms(session: Session) -> Iterator[Metric]:
    """How long each part of a study's way took, over all studies that the index knows."""
    first = (  # a state that was tried again is as old as its first try
        sa.select(
            Generation.reading_key,
            sa.func.min(Generation.complete_at).label("complete_at"),
            sa.func.min(Generation.last_ct_at).label("last_ct_at"),
        )
        .group_by(Generation.reading_key)
        .subquery()
    )
    of_reading = Result.rank <= REPORT_RANK  # corrections come when a person sends them
    delivered = (
        sa.select(Result.reading_key, sa.func.max(Delivery.delivered_at).label("at"))
        .join(Delivery, Delivery.sop_instance_uid == Result.sop_instance_uid)
        .where(of_reading)
        .group_by(Result.reading_key)
        .having(sa.func.count() == sa.func.count(Delivery.delivered_at))
        .subquery()
    )
    yield _histogram(
        session,
        ("sightline_received_to_ready_seconds", "Last CT image to complete"),
        sa.select(Generation.complete_at - Generation.last_ct_at),
    )
    yield _histogram(
        session,
        ("sightline_ready_to_read_seconds", "Complete to read"),
        sa.select(ReadingRow.finished_at - first.c.complete_at).join(
            first, first.c.reading_key == ReadingRow.key
        ),
    )
    yield _histogram(
        session,
        ("sightline_read_to_delivered_seconds", "Read to stored at a destination, per result"),
        sa.select(Delivery.delivered_at - Delivery.created_at)
        .join(Result, Result.sop_instance_uid == Delivery.sop_instance_uid)
        .where(of_reading, Delivery.delivered_at.is_not(None)),
    )
    yield _histogram(
        session,
        ("sightline_received_to_delivered_seconds", "Last CT image to all results at all destinations"),
        sa.select(delivered.c.at - first.c.last_ct_at).join_from(
            delivered, first, first.c.reading_key == delivered.c.reading_key
        ),
    )


def _histogram(session: Session, what: tuple[str, str], query: sa.Executable) -> Metric:
    """Of durations in seconds, the one column of a query."""
    durations = np.fromiter(session.scalars(query), dtype=np.float64)
    durations = np.sort(np.maximum(durations, 0.0))  # a clock may have been set back
    counts = np.searchsorted(durations, BUCKETS, side="right")
    buckets = [(str(bound), float(count)) for bound, count in zip(BUCKETS, counts, strict=True)]
    buckets.append(("+Inf", float(len(durations))))
    return HistogramMetricFamily(*what, buckets=buckets, sum_value=float(durations.sum()))


def _removed(session: Session) -> Iterator[Metric]:
    instances, size = session.execute(sa.select(sa.func.count(), sa.func.sum(RemovedInstance.size))).one()
    readings = session.scalar(sa.select(sa.func.count()).select_from(RemovedReading))
    for name, text, value in (
        ("sightline_removed_instances", "Instances that retention removed", instances),
        ("sightline_removed_bytes", "Bytes of the instances that retention removed", size),
        ("sightline_removed_readings", "Readings whose files retention removed", readings),
    ):
        yield CounterMetricFamily(name, text, value=float(value or 0))


def _processes(session: Session, now: float) -> Iterable[Metric]:
    rows = session.scalars(sa.select(ProcessRow).order_by(ProcessRow.name)).all()
    labels = ["process", "role"]
    up = GaugeMetricFamily("sightline_process_up", "Whether a process lives", labels=labels)
    age = GaugeMetricFamily("sightline_heartbeat_age_seconds", "Since its last sign of life", labels=labels)
    memory = GaugeMetricFamily("sightline_resident_bytes", "Its resident memory", labels=labels)
    gpu_free = GaugeMetricFamily("sightline_gpu_memory_free_bytes", "Free on its GPU", labels=labels)
    gpu_total = GaugeMetricFamily("sightline_gpu_memory_total_bytes", "Of its GPU", labels=labels)
    for row in rows:
        who = [row.name, row.role]
        up.add_metric(who, float(alive(row, now)))
        age.add_metric(who, now - row.beat_at)
        memory.add_metric(who, row.rss_bytes)
        if row.gpu_free_bytes is not None and row.gpu_total_bytes is not None:
            gpu_free.add_metric(who, row.gpu_free_bytes)
            gpu_total.add_metric(who, row.gpu_total_bytes)
    return up, age, memory, gpu_free, gpu_total
