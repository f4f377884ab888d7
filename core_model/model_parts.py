"""The model's parts by name: what training stages take over from a checkpoint, or leave as it is.

Only names of modules of `core_model.model.SightlineModel`; no network here.
"""

from __future__ import annotations

from collections.abc import Iterable

PARTS = {
    "encoder": ("image", "half_organ_head", "quarter_organ_head"),  # what draws organs
    "lesions": ("lesion_decoder", "text_to_mask", "kept_organ_head"),  # what draws text-conditioned masks
    "judge": ("candidate_judge", "text_to_judge"),  # what judges whole candidates
    "second_look": ("second_look",),  # what draws masks again
    "organ_heads": ("image.organ_head", "half_organ_head", "quarter_organ_head"),  # last layers of "encoder"
}


def modules_of(parts: Iterable[str]) -> list[str]:
    """Names of the modules of some of `PARTS`.

    Raises
    ------
    ValueError: if there is no such part.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"part {part!r} is unknown; choose of {sorted(PARTS)}")
    return [name for part in parts for name in PARTS[part]]
