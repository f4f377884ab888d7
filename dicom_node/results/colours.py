"""The colours of organs and lesions, the same in the SEG objects and in the key images.

Our choice: what anatomists colour alike (vessels red and blue, bone ivory) is
alike here, and neighbours differ.
"""

from __future__ import annotations

RGB = tuple[int, int, int]

LESION: RGB = (255, 40, 40)

_ORGANS: dict[str, RGB] = {
    "adrenals": (244, 214, 49),
    "aorta": (224, 67, 56),
    "autochthon": (96, 140, 110),
    "brain": (250, 250, 225),
    "clavicula": (241, 214, 145),
    "colon": (204, 168, 143),
    "duodenum": (255, 197, 110),
    "esophagus": (211, 171, 143),
    "face": (230, 190, 170),
    "femur": (222, 198, 101),
    "gallbladder": (90, 190, 60),
    "gluteus": (130, 170, 130),
    "heart": (206, 80, 100),
    "hip": (235, 215, 160),
    "humerus": (215, 205, 130),
    "iliac_artery": (240, 100, 80),
    "iliac_vena": (70, 130, 210),
    "iliopsoas": (80, 160, 150),
    "inferior_vena_cava": (40, 110, 220),
    "kidneys": (200, 140, 40),
    "liver": (196, 84, 64),
    "lung": (120, 200, 230),
    "pancreas": (249, 200, 80),
    "portal_vein_and_splenic_vein": (90, 80, 220),
    "pulmonary_artery": (60, 160, 200),
    "ribs": (253, 232, 158),
    "sacrum": (212, 188, 102),
    "scapula": (230, 200, 120),
    "small_bowel": (205, 140, 170),
    "spleen": (160, 80, 150),
    "stomach": (220, 150, 190),
    "trachea": (150, 225, 220),
    "urinary_bladder": (240, 230, 90),
    "cervical_spine": (255, 245, 200),
    "lumbar_spine": (215, 205, 155),
    "thoracic_spine": (240, 225, 175),
}


def organ_colour(name: str) -> RGB:
    """Red, green and blue (0..255) of a reading organ.

    Raises
    ------
    KeyError: if there is no such organ.

    >>> organ_colour("aorta")
    (224, 67, 56)
    """
    return _ORGANS[name]
