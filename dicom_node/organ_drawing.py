"""Who draws the organs, as a configuration says. The model itself is `dicom_node.model_in_use`.

Not for processes that only receive: it loads torch.
"""

from __future__ import annotations

from core_model.organ_segmenter import OrganSegmenter
from dicom_node.config import OWN, Config
from dicom_node.errors import SightlineError


def organ_segmenter(config: Config) -> OrganSegmenter | None:
    """What draws the organs in the place of the model's own head; None where that does.

    Raises
    ------
    SightlineError: TotalSegmentator is not installed or its weights are not there.
    """
    if config.organs == OWN:
        return None
    # Only where it is asked for: the package is an extra.
    from core_model.totalsegmentator_masks import TotalSegmentatorMasks  # noqa: PLC0415

    try:
        return TotalSegmentatorMasks(
            fast=config.organs_fast, device=config.device, weights=config.organs_weights
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SightlineError(f"organs = {config.organs!r}: {error}") from error
