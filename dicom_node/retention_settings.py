"""The ``[retention]`` table: how long what is done with stays on disk. No behaviour."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dicom_node.errors import SightlineError


@dataclass(frozen=True)
class RetentionSettings:
    """What is removed once it is delivered (`dicom_node.retention`); by default nothing ever is.

    Attributes
    ----------
    instance_days: received objects of a study are removed so long after its last CT image came; None keeps
        them.
    result_days: results of a study, and its encoding for queries, likewise.
    free_gib: below so much free disk space the oldest delivered studies are removed before their time,
        their received objects first; 0 switches that off. More than ``reserve_gib``, or the receiver
        refuses before there is room.
    """

    instance_days: float | None = None
    result_days: float | None = None
    free_gib: float = 0.0

    def __post_init__(self) -> None:
        for key in ("instance_days", "result_days"):
            days = getattr(self, key)
            if days is not None and not (math.isfinite(days) and days > 0):
                raise SightlineError(
                    f"retention.{key} = {days}: must be more than 0; leave it out to keep all"
                )
        if not (math.isfinite(self.free_gib) and self.free_gib >= 0):
            raise SightlineError(f"retention.free_gib = {self.free_gib}: must be 0 or more")
