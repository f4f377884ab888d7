"""What is asked of a study before it counts as complete: the ``[completeness]`` table.

Not the rule itself (`dicom_node.completeness`). The quiet time has its own key, ``quiet_seconds``.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.errors import SightlineError
from dicom_node.setting_checks import check_positive

READ, SET_ASIDE = "read", "set aside"


@dataclass(frozen=True)
class CompletenessSettings:
    """How long the node waits for a study, and what it asks the PACS.

    Attributes
    ----------
    ask: name of the destination that is asked (C-FIND) how many instances each CT series of a
        study has; None: nobody is asked, and the quiet time decides alone.
    settle_seconds: without a new CT instance for so long, and with all instances that the PACS
        has, a study is complete before its quiet time is over. Also the time between questions.
    cap_seconds: longest wait from a study's first new CT instance; then `at_cap` is done.
    at_cap: ``"read"`` what is there, or ``"set aside"`` until a person wants it read.
    """

    ask: str | None = None
    settle_seconds: float = 5.0
    cap_seconds: float = 3600.0
    at_cap: str = READ

    def __post_init__(self) -> None:
        for key in ("settle_seconds", "cap_seconds"):
            check_positive(f"completeness.{key}", getattr(self, key))
        if self.at_cap not in (READ, SET_ASIDE):
            raise SightlineError(f'completeness.at_cap = {self.at_cap!r}: must be "{READ}" or "{SET_ASIDE}"')
