"""The reader that a configuration asks for: checkpoint, device, and who draws the organs.

Not for processes that only receive: it loads torch.
"""

from __future__ import annotations

from core_model.organ_segmenter import OrganSegmenter
from core_model.reader import Reader
from dicom_node.config import OWN, Config
from dicom_node.errors import SightlineError


def load_reader(config: Config) -> Reader:
    """Load what reads.

    Raises
    ------
    SightlineError: the checkpoint, the device or TotalSegmentator cannot be used.
    """
    segmenter = organ_segmenter(config)
    try:
        return Reader.load(config.checkpoint, config.device, segmenter)
    except (OSError, ValueError, RuntimeError) as error:
        raise SightlineError(f"checkpoint or device: {error}") from error


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
