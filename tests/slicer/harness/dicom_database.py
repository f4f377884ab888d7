"""Stand-in of ``slicer.dicomDatabase``: what the extension asks it, an attribute of an instance.

Not a database: it knows what a test has put in.
"""

from __future__ import annotations


class DicomDatabase:
    """Series Instance UIDs by SOP Instance UID."""

    def __init__(self) -> None:
        self._series: dict[str, str] = {}

    def put(self, sop_instance_uid: str, series_instance_uid: str) -> None:
        """Make an instance known."""
        self._series[sop_instance_uid] = series_instance_uid

    def clear(self) -> None:
        """Forget all instances."""
        self._series.clear()

    def instanceValue(self, sop_instance_uid: str, tag: str) -> str:
        """The value of an attribute as text, empty where the instance or the tag is not known."""
        return self._series.get(sop_instance_uid, "") if tag.upper() == "0020,000E" else ""
