"""What retention took away: one row per removed object or result, so that the index still knows it.

A removed instance has no row in `dicom_node.index.Instance` any more: when it is sent again it is
new, and its file is written again.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index import UID, Base


class RemovedInstance(Base):
    """A received object whose file retention removed; the columns are those of its `Instance`."""

    __tablename__ = "removed_instance"
    id: Mapped[int] = mapped_column(primary_key=True)  # as it was: never used twice
    sop_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    study_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    series_instance_uid: Mapped[str] = mapped_column(UID)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    size: Mapped[int] = mapped_column(sa.BigInteger)
    received_at: Mapped[float]
    removed_at: Mapped[float]


class RemovedReading(Base):
    """A reading whose files retention removed. What was delivered of it stays in the index."""

    __tablename__ = "removed_reading"
    reading_key: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    removed_at: Mapped[float]
