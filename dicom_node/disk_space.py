"""When the archive's disk counts as full: two marks, each left only some way below where it was reached.

Not a cleaner: nothing is deleted here. Associations are refused above the first mark, while those that
are open may finish; instances are refused below the reserve. Without the distance between reaching
and leaving a mark, a full disk would take one instance for every one that is removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from dicom_node.config import Config

# The reserve counts as kept again with this much more than it.
_RESERVE_REGAINED = 1.05


class DiskSpace:
    """The free space of one archive, as the receiver sees it.

    Parameters
    ----------
    folder: of the archive.
    config: `Config.reserve_gib` and the marks in percent of its ``[receiver]`` table.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder = folder
        self._config = config
        self._refuses_associations = False
        self._refuses_instances = False

    def refuses_associations(self) -> bool:
        """Whether the disk is too full for a new association."""
        usage = shutil.disk_usage(self._folder)
        used = 100 * usage.used / max(1, usage.used + usage.free)  # percent, as `df` counts
        receiver = self._config.receiver
        mark = receiver.accept_below_percent if self._refuses_associations else receiver.refuse_above_percent
        self._refuses_associations = used >= mark
        return self._refuses_associations

    def refuses_instances(self) -> bool:
        """Whether less than the reserve is free."""
        reserve = self._config.reserve_gib * 2**30 * (_RESERVE_REGAINED if self._refuses_instances else 1)
        self._refuses_instances = shutil.disk_usage(self._folder).free < reserve
        return self._refuses_instances
