"""Several volumes in one series: phases, acquisitions or kernels over the same places, told apart.

Headers only. Where nothing tells the images apart, they stay together and
`dicom_node.series_geometry` refuses them with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dicom_node.instances import Instance
from dicom_node.series_geometry import SAME_POSITION_MM


def split_parts(images: Sequence[Instance]) -> list[tuple[str, tuple[Instance, ...]]]:
    """The volumes of one series, each with what it is called ("" where there is only one).

    Where several images lie at one place, the first attribute of `Instance.parts` counts that has
    as many values as there are images at a place, and after which no two of a value share one.
    """
    whole = [("", tuple(images))]
    at_one_place = _most_at_one_place(images)
    if at_one_place == 1:
        return whole
    for name, _ in images[0].parts:
        groups: dict[str, list[Instance]] = {}
        for image in images:
            groups.setdefault(dict(image.parts).get(name, ""), []).append(image)
        if len(groups) == at_one_place and all(
            len(group) > 1 and _most_at_one_place(group) == 1 for group in groups.values()
        ):
            return [(f"{name} {value}".strip(), tuple(group)) for value, group in groups.items()]
    return whole


def _most_at_one_place(images: Sequence[Instance]) -> int:
    """Number of images at the place that has most; images without a position count as apart."""
    places = Counter(
        (tuple(round(x / SAME_POSITION_MM) for x in image.position_mm), image.orientation)
        for image in images
        if image.position_mm is not None
    )
    return max(places.values(), default=1)
