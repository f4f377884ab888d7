"""Counts per peer that outlive a process: associations, instances, bytes, refusals.

Not the receiver and not the audit trail. The receiver counts in memory and the counts are added
to the index once a second, so that they cost the hot path nothing; what a receiver counted in
the last second before a SIGKILL is missing here (and only here: the instances are safe). Peers
that the configuration does not list are counted together, so that no stranger can fill the table.
"""

from __future__ import annotations

import threading
from collections import Counter

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index import Base, Index

ASSOCIATIONS = "associations"
ASSOCIATIONS_REFUSED = "associations_refused"
INSTANCES = "instances"
DUPLICATES = "duplicates"
BYTES = "bytes"
REFUSALS = "refusals"
OTHER = "other"


class TrafficRow(Base):
    """How often something happened with a peer since the archive was made.

    `what` is one of the names above; `detail` is the status of a refusal, otherwise empty.
    """

    __tablename__ = "traffic"
    ae_title: Mapped[str] = mapped_column(sa.String(16), primary_key=True)
    what: Mapped[str] = mapped_column(sa.String(24), primary_key=True)
    detail: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    count: Mapped[int] = mapped_column(sa.BigInteger)


class Traffic:
    """Counters of one process. Safe to share between threads.

    Parameters
    ----------
    index: where the sums are kept.
    known: AE titles that are counted by name.
    """

    def __init__(self, index: Index, known: tuple[str, ...]) -> None:
        self._index = index
        self._known = frozenset(known)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, ae_title: str, what: str, detail: str = "", count: int = 1) -> None:
        """Count something that happened with a peer."""
        peer = ae_title.strip() if ae_title.strip() in self._known else OTHER
        with self._lock:
            self._counts[peer, what, detail] += count

    def flush(self) -> None:
        """Add what was counted to the index.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError: the index cannot be written; the counts are kept for the next time.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            with self._index.writing() as session:
                dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
                for (ae_title, what, detail), count in sorted(counts.items()):
                    row = dialect.insert(TrafficRow).values(
                        ae_title=ae_title, what=what, detail=detail, count=count
                    )
                    added = {"count": TrafficRow.count + row.excluded.count}
                    key = [TrafficRow.ae_title, TrafficRow.what, TrafficRow.detail]
                    session.execute(row.on_conflict_do_update(index_elements=key, set_=added))
        except sa.exc.SQLAlchemyError:
            with self._lock:
                self._counts.update(counts)
            raise
